import numpy as np
import pytest

from ulmfit_app.evaluation.metrics import check_predictions


@pytest.mark.parametrize("truth", [[-1, 0], [0, -1], [2, 0], [0, 2]])
def test_one_class_index_out_of_range_is_refused_among_others_that_are_not(truth):
    probabilities = np.array([[0.5, 0.5], [0.1, 0.9]])
    with pytest.raises(ValueError, match="expected class indices from 0 to 1"):
        check_predictions(probabilities, np.array(truth))
    check_predictions(probabilities, np.array([1, 0]))
