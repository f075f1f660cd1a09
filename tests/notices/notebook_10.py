"""What notebook 10 says of its outputs."""

import numpy as np

from ulmfit_app.course.chinese_trials import NAMES
from ulmfit_app.evaluation.calibration import calibration_error_by_chance
from ulmfit_app.evaluation.metrics import (
    SIGNIFICANT,
    accuracy_interval,
    expected_calibration_error,
)
from ulmfit_app.experiments.label_curve import SCRATCH, SEMI_SUPERVISED, TFIDF


def 同一句話可以切成哪些單位(shown, words):
    n = shown.set_index("單位")["個數"]
    assert n["字"] == len("".join(words)) > n["子詞"]
    divided = shown.set_index("單位")["切分"]["子詞"].split(" / ")
    assert "".join(divided) == "".join(words)
    assert any(len(one) > 1 for one in divided)
    assert set(words) - set(divided), "some word is taken apart"


def 為什麼不直接切成詞(splits):
    (marked,) = splits.loc[splits["最長詞優先"] == "✓", "切法"]
    assert marked == "研究生 / 命 / 起源"
    assert "研究 / 生命 / 起源" in set(splits["切法"])


def 子詞的分數從哪裡來(ranked, tokenizer):
    assert ranked["切法"][0] == " / ".join(tokenizer("研究生命起源")[1:])
    assert (ranked["總分"] < 0).all() and ranked["總分"].is_monotonic_decreasing
    shares = [float(share.rstrip("%")) for share in ranked["占比"]]
    assert sum(shares) <= 100.5 and shares[0] == max(shares)


def 重複的字_罕見的字_外文會變成什麼(read):
    assert (read["原文"] == read["還原後"]).all()
    assert not read["子詞"].str.contains("xxunk").any()
    assert read["子詞"][0].startswith("xxrep 5 哈 ") and read["子詞"][1].startswith("<0xE9>")


def 簡體字怎麼讀(conversions):
    said = dict(zip(conversions["原文"], conversions["轉換後"], strict=True))
    assert "軟體" in said["软件和打印机都坏了"] and said["坐出租车去酒店"] == "坐計程車去酒店"
    assert said["质量不错"] == "質量不錯" and said["皇后在后面"] == "皇后在後面"
    assert said["头发干了以后再出门"] == "頭髮幹了以後再出門"


def 轉換之後_還找得到使用者原本的字嗎(traced):
    assert "".join(traced["原文的字"]) == "这家酒店的软件很好用"
    assert "".join(traced["模型讀到的子詞"]) == "這家酒店的軟體很好用"


def 讀了開頭_模型猜下一個是什麼(expected, begun):
    assert len(expected.columns) == len(begun)
    for column in expected.columns:
        shares = [float(cell.split("　")[1].rstrip("%")) for cell in expected[column]]
        assert shares == sorted(shares, reverse=True) and sum(shares) < 100


def 繁體_簡體_打亂的字_模型覺得哪一種難(scripts):
    original, converted, unconverted, shuffled = scripts["每字困惑度"]
    assert 0.9 < converted / original < 1.15
    assert min(unconverted, shuffled) > 1.5 * original


def 模型自己會寫出什麼(written, draws):
    assert len(set(written["續寫"])) == 2 * len(draws)
    assert written["續寫"].str.startswith(("臺灣的鐵路", "這家餐廳的老闆")).all()


def 要分類的文字長什麼樣(trials, printed):
    for split, table in trials.table.groupby("split"):
        assert table["label"].value_counts().nunique() == 1, split
    assert f"測試 {trials.sizes.test} 則" in printed


def 標籤很少時_預訓練值多少(few, printed):
    assert few["way"].tolist() == list(NAMES.values())
    assert ((few["low"] < few["error"]) & (few["error"] < few["high"])).all()
    assert (few["high"] - few["low"]).min() > 10 and "95%" in printed


def 標籤多一些呢(curve, shown):
    assert set(curve["labels"]) == {40, 200}
    assert "TF-IDF" in repr(shown)


def 同樣的文字上_哪一種做法比較好(compared, trials, at):
    for row in compared.to_dict("records"):
        first, other = (
            trials.find_right({name: way for way, name in NAMES.items()}[row[who]], row["標籤數"])
            for who in "甲乙"
        )
        assert row["只有甲對"] == (first & ~other).sum()
        p_value = float(row["p 值"].removeprefix("< "))
        told = row["結論"] != "分不出高下"
        assert told == (p_value < SIGNIFICANT)
        assert not told or (row["結論"] == "甲較好") == (row["只有甲對"] > row["只有乙對"])
    assert {SEMI_SUPERVISED, SCRATCH, TFIDF} <= set(NAMES) and len(compared) == 2 * len(at)


def 準確率有多可靠_錯在哪一邊(answers, printed):
    matrix = answers.confusion
    assert matrix.sum() - matrix.trace() == (~answers.right).sum()
    low, high = accuracy_interval(int(answers.right.sum()), len(answers.right))
    assert high - low > 0.05 and f"{low:.1%} 至 {high:.1%}" in printed


def 信心值可以當成機率嗎(answers, printed):
    probabilities, truth = answers.test.probabilities, answers.test.truth
    error = expected_calibration_error(probabilities, truth)
    is_chance = error <= calibration_error_by_chance(probabilities)
    assert ("不超過偶然" in printed) == is_chance
    assert is_chance or (probabilities.max(1).mean() > answers.right.mean()) == (
        "過度自信" in printed
    )


def 是哪些字決定了預測(explained, text):
    assert all(word in text for word in explained["字詞"])
    scores = explained["影響"].astype(float).abs()
    assert scores.is_monotonic_decreasing and len(explained) > 1


def 錯得最有把握的一則_錯在哪裡(errors, reasons, answers):
    assert errors["信心值"].is_monotonic_decreasing
    assert (errors["標籤"] != errors["預測"]).all()
    assert len(errors) == int((~np.asarray(answers.right)).sum())
    assert all(word in errors["文字"][0] for word in reasons["字詞"])
