"""What a program embeds: predictions, explanations and generated texts of trained models.

Importing it brings no fastai, no Learner and no pyplot, and changes nothing in the process.
"""

from ulmfit_app.inference.explanation import Explanation, explain
from ulmfit_app.inference.generation import generate
from ulmfit_app.inference.language_model import TrainedModel, load
from ulmfit_app.inference.perplexity import score_file
from ulmfit_app.inference.predicted_file import predict_file
from ulmfit_app.inference.predictor import Predictor, load_predictor
from ulmfit_app.sampling_settings import SamplingSettings
