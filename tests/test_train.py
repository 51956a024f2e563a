"""One training loop: the paper's constants, equal budgets, and a resume that changes nothing."""

import copy

import numpy as np
import pytest
import torch

from memgen.base.errors import ConfigError, DataError
from memgen.models.networks import UNetSettings, build
from memgen.models.training import Training, TrainSettings, _augmented, _batches, _learning_rate, _noised, train

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def training(seed=(0, 0), **settings) -> Training:
    chosen = TrainSettings(**({"images_seen": 480, "batch_size": 16, "tile_to": 64} | settings))
    return Training(build(UNetSettings(blocks=1, width=4), SHAPE), chosen, seed)


def finish(state: Training, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    for _ in train(state, pixels, record_every=5):
        pass
    return state.result.state_dict()


def equal(x: dict[str, torch.Tensor], y: dict[str, torch.Tensor]) -> bool:
    return x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)


@pytest.mark.parametrize(
    ("n_train", "epoch", "steps"),
    [(1, 250_000, 489), (10, 250_000, 489), (10_000, 250_000, 489), (99_325, 198_650, 388)],
)
def test_paper_preset_has_the_papers_epochs(n_train, epoch, steps):
    """An epoch tiles the set to about 250,000 images: 489 steps of 512 up to N = 10^4, 388 at N = 99,325; 1,000 epochs."""
    settings = TrainSettings(preset="paper")
    assert settings.epoch_images(n_train) == epoch
    assert -(-epoch // settings.batch_size) == steps
    assert settings.budget(n_train) == 1000 * epoch


def test_paper_preset_has_the_papers_optimizer():
    """Adam at 1e-3, default betas, no decay, no average; halved at epochs 100, 200, ..., 900, so 1e-3 / 512 at the end."""
    settings = TrainSettings(preset="paper")
    state = Training(build(UNetSettings(blocks=1, width=4), SHAPE), settings, (0, 0))
    assert type(state.optimizer) is torch.optim.Adam
    assert state.optimizer.defaults["betas"] == (0.9, 0.999)
    assert state.optimizer.defaults["weight_decay"] == 0
    assert state.ema is None
    assert settings.sigma_law == "quadratic"
    assert settings.weight_floor is None
    budget, epoch = settings.budget(10), settings.epoch_images(10)
    rates = [_learning_rate(settings, number * epoch, budget) for number in (0, 99, 100, 899, 900, 999)]
    assert rates == [1e-3, 1e-3, 5e-4, 1e-3 / 256, 1e-3 / 512, 1e-3 / 512]


def test_every_n_sees_the_same_number_of_images():
    """The fast preset's budget is the same for every N, to the image."""
    for n_train in (1, 3, 50, 200):
        state = training()
        finish(state, images(n_train))
        assert state.images_seen == 480


def test_epochs_are_permutations_of_the_tiled_set():
    """Within an epoch every image is presented equally often, and the order changes from epoch to epoch."""
    state = training(images_seen=120, batch_size=7, tile_to=60)
    seen = np.concatenate(list(_batches(state, 20)))
    assert len(seen) == 120
    for epoch in (seen[:60], seen[60:]):
        assert (np.bincount(epoch, minlength=20) == 3).all()
    assert not np.array_equal(seen[:60], seen[60:])


@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9}, {"optimizer": "adam", "schedule": "halving"}])
def test_resumed_training_ends_with_the_same_weights(settings, tmp_path):
    """Stopped at any record, saved, and resumed in a new object: bit-equal weights and equal records but for the time."""
    whole = training(**settings)
    expected = finish(whole, images(30))
    for stop in (1, 3):
        begun = training(**settings)
        for number, _ in enumerate(train(begun, images(30), record_every=5), 1):
            if number == stop:
                break
        torch.save(begun.state(), tmp_path / "state.pt")
        resumed = training(**settings)
        resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
        assert 0 < resumed.images_seen < 480
        assert equal(finish(resumed, images(30)), expected)
        assert [(r.step, r.loss) for r in resumed.records] == [(r.step, r.loss) for r in whole.records]


def test_seed_and_part_decide_everything():
    """The same seed gives the same weights bit for bit; another seed or part gives others, from the first weights on."""
    reference = finish(training((0, 0)), images(30))
    assert equal(finish(training((0, 0)), images(30)), reference)
    for seed in ((1, 0), (0, 1)):
        assert not torch.equal(training(seed).network.mid_block[0].weight, training().network.mid_block[0].weight)
        assert not equal(finish(training(seed), images(30)), reference)


def test_global_random_state_is_left_alone():
    """Training neither reads nor moves PyTorch's global generator."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = finish(training(), images(5))
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(2)
    assert equal(finish(training(), images(5)), first)


def test_training_learns_a_single_image():
    """On one image the training PSNR rises far above that of doing nothing."""
    state = training(images_seen=6400, learning_rate=1e-2)
    clean = images(1)
    for _ in train(state, clean):
        pass
    network = state.result.eval()
    x = clean.float() / 255
    z = torch.randn((16, *SHAPE), generator=torch.Generator().manual_seed(3))
    error = (network(x + 0.3 * z) - x).square().mean()
    assert error < 0.2 * 0.3**2


def test_average_of_weights_is_what_is_returned():
    """With ema_decay the result is the running average, not the last weights."""
    state = training(ema_decay=0.9)
    finish(state, images(10))
    assert not torch.equal(state.result.mid_block[0].weight, state.network.mid_block[0].weight)


def test_bfloat16_trains():
    """Autocast to bfloat16 ends near the float32 training, and keeps float32 weights and statistics."""
    low, full = training(precision="bfloat16"), training()
    finish(low, images(20))
    finish(full, images(20))
    assert low.network.mid_block[1].running_sd.dtype == torch.float32
    assert low.records[-1].loss == pytest.approx(full.records[-1].loss, rel=0.2)
    assert low.records[-1].loss != full.records[-1].loss


def flat(n: int) -> torch.Tensor:
    """Images of one gray level each, which a denoiser can learn."""
    levels = torch.linspace(0, 255, n).to(torch.uint8)
    return levels.view(-1, 1, 1, 1).expand(-1, *SHAPE).contiguous()


def test_a_training_learns():
    """On images of one gray level each, the loss falls to less than half within 2,000 images."""
    state = training(images_seen=2000)
    finish(state, flat(30))
    assert state.records[-1].loss < 0.5 * state.records[0].loss


@pytest.mark.gpu
def test_on_cuda():
    """The same initial weights as on the CPU, a training that learns, and a resume that goes on as if never stopped.

    A GPU adds in an order that may differ from run to run, which grows with every step: only few steps are compared.
    """
    settings = training(images_seen=2000).settings

    def begun() -> Training:
        return Training(build(UNetSettings(blocks=1, width=4), SHAPE), settings, (0, 0), "cuda")

    def go_on(each: Training, step: int) -> None:
        for record in train(each, pixels, record_every=1):
            if record.step >= step:
                break

    first, resumed = begun(), begun()
    assert torch.equal(training().network.mid_block[0].weight, first.network.mid_block[0].weight.cpu())
    pixels = flat(30).cuda()
    go_on(first, 50)
    resumed.restore(copy.deepcopy(first.state()))  # as a file would hold it
    go_on(first, 53)
    go_on(resumed, 53)
    for key, weights in first.result.state_dict().items():
        torch.testing.assert_close(resumed.result.state_dict()[key], weights, rtol=1e-3, atol=1e-4)
    finish(resumed, pixels)
    assert resumed.records[-1].loss < 0.6 * resumed.records[0].loss


def test_divergence_is_an_error():
    """A loss that is no longer finite stops the training with advice."""
    with pytest.raises(DataError, match="learning_rate"):
        finish(training(learning_rate=1e30), images(4))


def test_a_budget_is_given_once():
    """Both budgets or none is refused; epochs alone replaces images_seen."""
    from memgen.base.config import validate

    with pytest.raises(ConfigError, match="exactly one"):
        validate(TrainSettings, {"images_seen": 10, "epochs": 2}, "settings")
    assert TrainSettings(epochs=3, tile_to=100).budget(10) == 300
    assert TrainSettings(preset="paper", images_seen=1000).budget(10) == 1000


@pytest.mark.parametrize(
    ("key", "value"),
    [("sigma_law", "uniform"), ("weight_decay", 0.5), ("warmup", 0.5), ("schedule", "halving"), ("weight_floor", 1.0)],
)
def test_every_setting_is_read(key, value):
    """Changing a setting changes the weights."""
    assert not equal(finish(training(**{key: value}), images(10)), finish(training(), images(10)))


def test_augmented_images_are_shifted_and_mirrored_ones():
    """Each is one of the 2 x 9 x 9 changes of its image, with the border repeated; all kinds occur; colors move together."""
    clean = torch.rand((64, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    changed = _augmented(clean, ("mirror", "shift"), np.random.default_rng(0))
    wide = torch.nn.functional.pad(clean, (4, 4, 4, 4), mode="replicate")
    seen = set()
    for i in range(64):
        for mirrored in (False, True):
            for down in range(9):
                for right in range(9):
                    view = wide[i, :, down : down + 32, right : right + 32]
                    if torch.equal(view.flip(2) if mirrored else view, changed[i]):
                        seen.add((i, mirrored, down, right))
    assert {i for i, *_ in seen} == set(range(64))
    assert {mirrored for _, mirrored, *_ in seen} == {False, True}
    assert len({place for *_, place, _ in seen}) == 9


def test_noisy_data_are_the_same_whenever_they_are_seen():
    """Noise of the stated size, another one for each image, and the same again; the images themselves stay as they are."""
    pixels = images(50)
    found = _noised(pixels, 0.2, (0, 0))
    noise = found - pixels / 255
    assert noise.std().item() == pytest.approx(0.2, rel=0.05)
    assert torch.equal(_noised(pixels, 0.2, (0, 0)), found)
    assert not torch.equal(_noised(pixels, 0.2, (1, 0)), found)
    assert torch.equal(_noised(pixels[:10], 0.2, (0, 0)), found[:10])


@pytest.mark.parametrize("settings", [{"augment": ("mirror", "shift")}, {"data_noise": 0.1}])
def test_training_against_memorization_changes_the_result_and_resumes(settings):
    """The option changes the weights, and a training that is resumed ends with the same ones."""
    pixels = images(20)
    plain, whole = finish(training(), pixels), finish(training(**settings), pixels)
    assert not equal(plain, whole)
    first = training(**settings)
    for record in train(first, pixels, record_every=5):
        if record.step == 15:
            break
    second = training(**settings)
    second.restore(copy.deepcopy(first.state()))
    assert equal(finish(second, pixels), whole)
