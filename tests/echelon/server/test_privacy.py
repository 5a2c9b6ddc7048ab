"""Which of Flower's privacy features go with a model per worker, and which end in an error."""

from typing import Any

import numpy as np
import pytest
from flwr.client.mod import secagg_mod, secaggplus_mod
from flwr.clientapp.mod import LocalDpMod
from flwr.clientapp.typing import Mod
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, Strategy

from echelon.engines.inline import InlineGrid
from strategies import DPSGD, SGD, AllReduce, FullBatch, Partition
from tests import tiny

WORK = FullBatch(batch_size=16, minibatch_size=4)
CLIPPING_NORM = 0.01


@pytest.mark.parametrize("mod", [secagg_mod, secaggplus_mod])
def test_secure_aggregation_is_refused(mod: Mod) -> None:
    with pytest.raises(ValueError, match="mods must leave each worker's model readable"):
        tiny.app(mods=[mod])


class TestLocalDifferentialPrivacy:
    """The mod wants one array record each way: no partition of the server's and no momentum."""

    def run(self, make: Any, noise: float, **options: Any) -> tiny.Run:
        mod = LocalDpMod(CLIPPING_NORM, sensitivity=noise, epsilon=1.0, delta=0.1)
        grid = InlineGrid(tiny.app(mods=[mod]), 4)
        return tiny.run(make, 1, on=grid, work=WORK, **{"partition": None, **options})

    @pytest.mark.parametrize("make", [AllReduce, DPSGD])
    def test_every_workers_update_is_clipped(self, make: Any) -> None:
        run = self.run(make, noise=0.0)
        assert run.column("rejected") == [0]
        moved = np.linalg.norm(run.rows - tiny.vector(tiny.arrays()), axis=1)
        assert (moved > 0).all()
        assert (moved <= CLIPPING_NORM * 1.001).all()

    def test_every_worker_has_its_own_noise(self) -> None:
        rows = self.run(lambda **options: DPSGD("ring", **options), noise=1.0).rows
        assert np.linalg.norm(rows[0] - rows[1]) > 10 * CLIPPING_NORM

    @pytest.mark.parametrize(
        "options", [{"partition": Partition([np.arange(24)] * 4)}, {"sgd": SGD(0.2, momentum=0.9)}]
    )
    def test_more_records_are_an_error_of_the_mod(self, options: dict[str, Any]) -> None:
        with pytest.raises(Exception, match="no worker returned a usable model"):
            self.run(AllReduce, 0.0, **options)


class TestCentralDifferentialPrivacy:
    """The wrapper runs Flower's own loop around the strategy."""

    def start(self, strategy: Strategy, noise: float) -> Any:
        wrapper = DifferentialPrivacyServerSideFixedClipping(strategy, noise, CLIPPING_NORM, num_sampled_clients=4)
        return wrapper.start(InlineGrid(tiny.app(), 4), tiny.arrays(), 2)

    def test_all_reduce_goes_on_from_the_noisy_average(self) -> None:
        strategy = AllReduce(work=WORK, sgd=SGD(0.2), partition=tiny.partition(4))
        result = self.start(strategy, noise=0.0)
        moved = tiny.vector(result.arrays) - tiny.vector(tiny.arrays())
        assert 0 < np.linalg.norm(moved) <= 2 * CLIPPING_NORM * 1.001
        noisy = self.start(AllReduce(work=WORK, sgd=SGD(0.2), partition=tiny.partition(4)), noise=100.0)
        assert np.linalg.norm(tiny.vector(noisy.arrays) - tiny.vector(result.arrays)) > CLIPPING_NORM

    def test_a_model_per_worker_is_refused(self) -> None:
        with pytest.raises(ValueError, match="only AllReduce goes with such a wrapper"):
            self.start(DPSGD("ring", work=WORK, sgd=SGD(0.2), partition=tiny.partition(4)), noise=1.0)
