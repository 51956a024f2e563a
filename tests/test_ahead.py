"""What the CPU draws ahead of an accelerator's need is what it would have drawn one by one."""

import threading

import numpy as np
import pytest
import torch

from memgen.base import noise
from memgen.models import ahead
from memgen.models.networks import UNetSettings, build
from memgen.models.sampling import SampleSettings, sample
from memgen.models.training import Training, TrainSettings, train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # a name alone: nothing here needs a GPU
SHAPE = (1, 8, 8)


def network():
    made = build(UNetSettings(blocks=1, width=4), SHAPE)
    made.initialize(torch.Generator().manual_seed(0))
    return made.eval()


def test_results_come_in_order():
    """Threads make what follows meanwhile, never more than wait at a time, and the order is that of the keys."""
    made, here = [], threading.get_ident()

    def make(key):
        made.append((key, threading.get_ident() == here))
        return key**2

    found = ahead.made_ahead(make, range(1000), CUDA)
    assert [next(found) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(made) <= 5 + ahead._AHEAD
    found.close()
    assert list(ahead.made_ahead(make, range(100), CUDA)) == [key**2 for key in range(100)]
    assert not any(is_here for _, is_here in made)
    made.clear()
    assert next(ahead.made_ahead(make, range(100), CPU)) == 0
    assert made == [(0, True)]


def test_an_error_of_a_thread_arrives():
    with pytest.raises(ZeroDivisionError):
        list(ahead.made_ahead(lambda key: 1 // key, [1, 0], CUDA))


@pytest.mark.parametrize("by_threads", [False, True])
def test_noise_is_that_of_each_stream(by_threads):
    """However many images are drawn at once, image k of stream i is the k-th of that stream, until it is left out."""
    drawn = ahead.Noise([noise.stream("test", i) for i in range(40)], SHAPE, CPU)
    drawn._ahead = by_threads
    assert drawn._count == ahead._AT_ONCE // 64
    each = [noise.stream("test", i) for i in range(40)]
    which = np.arange(40)
    for step in range(150):
        if step in (3, 70, 100):
            which = which[which % (step + 2) != 1]
        expected = np.stack([noise.normal(each[i], SHAPE) for i in which])
        np.testing.assert_array_equal(drawn.next(which).numpy(), expected)


def test_large_images_are_drawn_one_by_one():
    assert ahead.Noise([noise.stream("test", 0)], (3, 64, 64), CPU)._count == 1
    many = ahead.Noise([noise.stream("test", 0)] * 2**18, SHAPE, CPU)
    assert many._count == 2


@pytest.fixture
def compiled(monkeypatch):
    """What was compiled, by a compiler that changes nothing."""
    seen = []

    def compile_nothing(function, **options):
        seen.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)
    return seen


def trained(**given):
    settings = TrainSettings(images_seen=100, batch_size=16, **given)
    state = Training(build(UNetSettings(blocks=1, width=4), SHAPE), settings, (0, 0))
    list(train(state, torch.full((30, *SHAPE), 0.5)))
    return state.result.mid_block[0].weight


def test_networks_are_compiled_where_it_is_asked_for(compiled):
    """Training and sampling compile the network once, for one shape, and only on request."""
    assert torch.equal(trained(), trained(compiled=True))
    plain = sample(network(), torch.zeros(SHAPE), range(3), 0, SampleSettings(max_steps=3))
    other = sample(network(), torch.zeros(SHAPE), range(3), 0, SampleSettings(max_steps=3, compiled=True))
    np.testing.assert_array_equal(plain.images, other.images)
    assert compiled == [{"mode": "default", "dynamic": False}] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_differs_by_rounding():
    torch.testing.assert_close(trained(compiled=True), trained(), rtol=1e-3, atol=1e-4)
    settings = SampleSettings(max_steps=3)
    plain = sample(network(), torch.zeros(SHAPE), range(3), 0, settings)
    other = sample(network(), torch.zeros(SHAPE), range(3), 0, settings.model_copy(update={"compiled": True}))
    np.testing.assert_allclose(other.images, plain.images, atol=1e-4)


def test_samples_in_bfloat16_have_the_same_noise():
    """The network rounds to 8 bits, and iterates do not: after few steps samples are close, and not equal."""
    settings = SampleSettings(max_steps=3)
    plain = sample(network(), torch.zeros(SHAPE), range(3), 0, settings)
    rounded = sample(network(), torch.zeros(SHAPE), range(3), 0, settings.model_copy(update={"precision": "bfloat16"}))
    assert rounded.images.dtype == np.float32
    assert not np.array_equal(rounded.images, plain.images)
    np.testing.assert_allclose(rounded.images, plain.images, atol=0.05)
