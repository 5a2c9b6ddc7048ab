import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from partitioners.submodular import features


class TestPca:
    def test_distances_survive_when_all_directions_that_vary_are_kept(self) -> None:
        rng = np.random.default_rng(0)
        x = 5 + rng.normal(size=(12_000, 3)) @ rng.normal(size=(3, 8))

        z = features.pca(x.reshape(-1, 2, 4), 3, rng)

        assert z.shape == (12_000, 3)
        assert z.dtype == np.float32
        np.testing.assert_allclose(pdist(z[-50:]), pdist(x[-50:]), rtol=1e-3)

    def test_a_float64_offset_changes_nothing(self) -> None:
        x = np.random.default_rng(0).normal(size=(300, 4)) * [1, 9, 2, 1] + 1.7e12

        z, without = (features.pca(x - offset, 2, np.random.default_rng(1)) for offset in (0, 1.7e12))

        np.testing.assert_allclose(z, without, atol=1e-4)

    def test_the_first_component_varies_most(self) -> None:
        x = np.random.default_rng(0).normal(size=(500, 4)) * [1, 9, 2, 1]

        z = features.pca(x, 1, np.random.default_rng(0))

        assert abs(np.corrcoef(z[:, 0], x[:, 1])[0, 1]) > 0.99

    def test_equal_generators_give_equal_bits(self) -> None:
        x = np.random.default_rng(0).normal(size=(300, 20))

        assert (features.pca(x, 5, np.random.default_rng(1)) == features.pca(x, 5, np.random.default_rng(1))).all()

    @pytest.mark.parametrize("components", [0, 5])
    def test_number_of_components(self, components: int) -> None:
        with pytest.raises(ValueError, match=rf"partitioner\.components must lie in \[1, 4\]; got {components}"):
            features.pca(np.ones((9, 4)), components, np.random.default_rng(0))

    def test_nan(self) -> None:
        with pytest.raises(ValueError, match="features must be finite; sample 0"):
            features.pca([[np.nan, 1.0]], 1, np.random.default_rng(0))


class TestPenultimate:
    def test_it_is_the_input_of_the_last_linear_layer(self) -> None:
        torch.manual_seed(0)
        body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 6), torch.nn.Dropout(0.5), torch.nn.ReLU())
        model = torch.nn.Sequential(body, torch.nn.Linear(6, 3)).train()
        body[1].eval()
        x = torch.randn(10, 3, 4)

        found = features.penultimate(model, x, batch_size=4)

        assert found.dtype == np.float32
        assert (model.training, body.training, body[1].training) == (True, True, False)
        assert not model[1]._forward_pre_hooks
        np.testing.assert_allclose(found, body.eval()(x).detach().numpy(), atol=1e-6)

    def test_a_model_without_a_linear_layer(self) -> None:
        with pytest.raises(ValueError, match="needs a model with a linear layer; Conv2d has none"):
            features.penultimate(torch.nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2))
