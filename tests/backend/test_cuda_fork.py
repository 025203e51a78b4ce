"""A process that is forked after CUDA was used: a clear error, as CUDA itself would only say that it is not initialised."""

from __future__ import annotations

import os
import traceback

import numpy as np
import pytest

import gpucnn
from gpucnn import nn
from gpucnn.backend import Backend
from gpucnn.errors import DeviceError


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_that_cuda_does_not_work_in_it(standin: Backend) -> None:
    with gpucnn.use(standin):
        net = nn.Linear(3, 2)
        x = gpucnn.tensor(np.ones((4, 3), np.float32))
        step = gpucnn.capture(lambda x: net(x) + 1, state=[net])
        step(x)
        child = os.fork()
        if not child:
            code = 1
            try:
                for use in (lambda: x + 1, x.numpy, lambda: gpucnn.tensor([1.0]), lambda: step(x), lambda: x.sum()):
                    with pytest.raises(DeviceError, match="cuda:0 was in use when this process was forked"):
                        use()
                del step
                with gpucnn.use("cpu"):
                    gpucnn.tensor([1.0]) + 1
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        (x + 1).numpy()  # in the parent all goes on
