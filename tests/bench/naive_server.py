"""The server that a tutorial shows, to be compared with: python -m tests.bench.naive_server RUN

fastai's Learner behind one handler, which calls `Learner.predict` for each request, on the event
loop, as the examples for FastAPI and Starlette do. FastAPI is Starlette with checks of types; it
is not installed with fastai, so this is Starlette alone, which costs less. The weights, the
vocabulary and the labels are those of the run's classifier; the layers, the tokenizer, the padding
and the precision (fp32) are plain fastai's, and no temperature is applied. It has no limits, no
queue and no batches, and nothing but this benchmark should use it.
"""

import argparse
import socket
import warnings
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import uvicorn
from fastai.text.all import (
    AWD_LSTM,
    CategoryBlock,
    Learner,
    TextDataLoaders,
    awd_lstm_clas_config,
    text_classifier_learner,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ulmfit_app.errors import BundleError
from ulmfit_app.hardware import set_up_cpu
from ulmfit_app.models.bundle import Bundle, load_bundle, load_weights


def plain_learner(bundle: Bundle) -> Learner:
    """fastai's own Learner with the weights of a classifier's bundle.

    Raises:
        BundleError: the bundle is no AWD-LSTM's, or reads backward.
    """
    if bundle.architecture != "awd-lstm" or bundle.direction != "forward":
        raise BundleError(
            "fastai's own Learner is made for a forward AWD-LSTM, and the classifier in "
            f"{bundle.weights.parent} is a {bundle.direction} {bundle.architecture}."
        )
    rows = [(f"text {i}", label) for i in range(2) for label in bundle.labels]
    dls = TextDataLoaders.from_df(
        pd.DataFrame(rows, columns=["text", "label"]),
        text_col="text",
        label_col="label",
        text_vocab=bundle.vocab,
        y_block=CategoryBlock(bundle.labels, sort=False),
        bs=2,
    )
    config = {**awd_lstm_clas_config, **asdict(bundle.shape)}
    # A dropout of 0 would be left out of the head, whose layers would be numbered otherwise.
    learn = text_classifier_learner(dls, AWD_LSTM, config=config, pretrained=False, drop_mult=1e-9)
    load_weights(bundle, learn.model)
    return learn


def build_app(learn: Learner) -> Starlette:
    """One route, which takes {"text": …} and gives a label with probabilities."""

    async def predict(request: Request) -> JSONResponse:
        text = (await request.json())["text"]
        with learn.no_bar(), learn.no_logging():
            label, _, probabilities = learn.predict(text)
        return JSONResponse({"label": label, "probabilities": probabilities.tolist()})

    return Starlette(routes=[Route("/v1/predict", predict, methods=["POST"])])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--port", type=int, default=0, help="0, unless told: a free one")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    set_up_cpu()  # plain fastai, which has no such thing, gains by it too
    learn = plain_learner(load_bundle(arguments.run / "classifier", "classifier"))
    learn.predict("ready")
    bound = socket.create_server(("127.0.0.1", arguments.port), backlog=2048)
    print(f"Serving on http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
    config = uvicorn.Config(build_app(learn), access_log=False, log_level="error")
    uvicorn.Server(config).run([bound])


if __name__ == "__main__":
    main()
