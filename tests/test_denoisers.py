"""The networks against the paper's numbers, a second implementation, and the laws that bias-free networks obey."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.func import functional_call, jvp
from truth import GaussianDenoiser, IdealDenoiser, IdentityDenoiser, LinearDenoiser, ZeroDenoiser

from memgen.base.errors import ShapeError
from memgen.models.denoiser import Denoiser
from memgen.models.networks import (
    ArchitectureSettings,
    BFCNNRFSettings,
    BFCNNSettings,
    BiasFreeBatchNorm,
    BiasFreeNetwork,
    UNetSettings,
    build,
)

Settings = UNetSettings | BFCNNSettings | BFCNNRFSettings

SMALL: list[Settings] = [
    UNetSettings(blocks=1, width=4),
    UNetSettings(blocks=2, width=4),
    UNetSettings(blocks=3, width=2),
    BFCNNSettings(layers=5, width=6),
    BFCNNSettings(layers=5, width=6, first_layer_linear=True),
    BFCNNRFSettings(receptive_field=9, width=12),
]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _skeleton(settings: Settings, channels: int = 1) -> BiasFreeNetwork:
    """A network that has shapes but no memory."""
    with torch.device("meta"):
        return build(settings, (channels, 32, 32))


def _trained_like(settings: Settings, channels: int = 1, seed: int = 0, side: int = 16) -> BiasFreeNetwork:
    """A float64 network in eval mode with γ of both signs and the running deviations of some batches."""
    network = build(settings, (channels, side, side)).double()
    network.initialize(_generator(seed))
    network.requires_grad_(False).train()
    for module in network.modules():
        if isinstance(module, BiasFreeBatchNorm):
            module.gammas.normal_(0, 2, generator=_generator(seed + 1))
    for batch in range(30):
        network(_noisy(channels, side=side, seed=100 + batch))
    return network.eval()


def _noisy(channels: int = 1, n: int = 3, side: int = 16, seed: int = 5) -> Tensor:
    return 0.5 + 0.5 * torch.randn(n, channels, side, side, generator=_generator(seed), dtype=torch.float64)


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


# Sizes and names: science of the released code, to the unit.


@pytest.mark.parametrize(
    ("settings", "parameters", "buffers", "entries"),
    [
        (UNetSettings(blocks=1, width=64), 366_080, 384, None),
        (UNetSettings(blocks=2, width=64), 1_825_024, 1_152, None),
        (UNetSettings(blocks=3, width=64), 7_659_264, 2_688, 41),
        (UNetSettings(blocks=4, width=64), 30_993_152, 5_760, None),
        (BFCNNSettings(layers=21), 702_784, 19 * 64, 59),
        (BFCNNSettings(layers=20), 665_856, 18 * 64, 56),
        (BFCNNRFSettings(receptive_field=5), 80_192, 19 * 64, 59),
        (BFCNNRFSettings(receptive_field=9), 145_728, 19 * 64, 59),
        (BFCNNRFSettings(receptive_field=13), 211_264, 19 * 64, 59),
        (BFCNNRFSettings(receptive_field=23), 375_104, 19 * 64, 59),
        (BFCNNRFSettings(receptive_field=43), 702_784, 19 * 64, 59),
    ],
)
def test_sizes(settings: Settings, parameters: int, buffers: int, entries: int | None):
    """Parameters, buffers and state-dict entries are those of the authors' networks, to the unit."""
    network = _skeleton(settings)
    assert network.parameter_count == parameters
    assert sum(buffer.numel() for buffer in network.buffers()) == buffers
    assert sum(value.numel() for value in network.state_dict().values()) == parameters + buffers
    if entries is not None:
        assert len(network.state_dict()) == entries


def test_size_of_each_part():
    """The parameters of the paper's UNet are spread over its parts as in the authors' network."""
    network = _skeleton(UNetSettings(blocks=3, width=64))
    parts = {"encoder": ["0", "1", "2"], "upsample": ["2", "1", "0"], "decoder": ["2", "1", "0"]}
    counts = {
        part: [sum(p.numel() for p in network.get_submodule(f"{part}.{block}").parameters()) for block in blocks]
        for part, blocks in parts.items()
    }
    assert counts["encoder"] == [37_504, 221_440, 885_248]
    assert counts["decoder"] == [1_769_984, 442_624, 74_368]
    assert counts["upsample"] == [524_288, 131_072, 32_768]
    assert sum(p.numel() for p in network.get_submodule("mid_block").parameters()) == 3_539_968


def test_names_and_shapes_of_the_unet():
    """The keys of a three-block UNet are exactly those of the authors' checkpoints, with their shapes."""
    shapes = {
        key: tuple(value.shape) for key, value in _skeleton(UNetSettings(blocks=3, width=64)).state_dict().items()
    }
    norms = ["encoder.0.3", "decoder.0.1"]
    expected = {"encoder.0.0.weight", "encoder.0.2.weight", "decoder.0.0.weight", "decoder.0.3.weight"}
    for block in ("encoder.1", "encoder.2", "mid_block", "decoder.2", "decoder.1"):
        expected |= {f"{block}.0.weight", f"{block}.3.weight"}
        norms += [f"{block}.1", f"{block}.4"]
    expected |= {f"upsample.{block}.weight" for block in (2, 1, 0)}
    expected |= {f"{norm}.{name}" for norm in norms for name in ("gammas", "running_sd")}
    assert set(shapes) == expected
    assert [shapes[f"upsample.{block}.weight"] for block in (2, 1, 0)] == [
        (512, 256, 2, 2),
        (256, 128, 2, 2),
        (128, 64, 2, 2),
    ]
    assert shapes["encoder.0.0.weight"] == (64, 1, 3, 3)
    assert shapes["mid_block.0.weight"] == (512, 256, 3, 3)
    assert shapes["decoder.2.0.weight"] == (256, 512, 3, 3)
    assert shapes["decoder.0.3.weight"] == (1, 64, 3, 3)
    assert shapes["mid_block.1.gammas"] == shapes["mid_block.1.running_sd"] == (1, 512, 1, 1)


@pytest.mark.parametrize("settings", [BFCNNSettings(layers=21), BFCNNRFSettings(receptive_field=13)])
def test_names_of_the_bf_cnn(settings: Settings):
    """The keys of a 21-layer BF-CNN are exactly those of the authors' checkpoints."""
    expected = {f"conv_layers.{layer}.weight" for layer in range(21)}
    expected |= {f"BN_layers.{layer}.{name}" for layer in range(19) for name in ("gammas", "running_sd")}
    assert set(_skeleton(settings).state_dict()) == expected


@pytest.mark.parametrize("settings", SMALL, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels(settings: Settings, channels: int):
    """Images of any number of channels keep their shape, and only the first and last convolution grow with it."""
    network = _trained_like(settings, channels)
    noisy = _noisy(channels)
    assert network(noisy).shape == noisy.shape
    grown = network.parameter_count - _skeleton(settings).parameter_count
    assert grown == (channels - 1) * 2 * 9 * settings.width


@pytest.mark.parametrize(("blocks", "side"), [(1, 15), (2, 18), (3, 28), (4, 40)])
def test_indivisible_sides(blocks: int, side: int):
    """A UNet refuses images whose sides its pooling would not divide, and names what it needs and what it found."""
    for shape in [(1, side, 32), (1, 32, side)]:
        with pytest.raises(ShapeError, match=rf"divisible by {2**blocks}, found {shape[1]}x{shape[2]}"):
            build(UNetSettings(blocks=blocks, width=2), shape)


def test_settings_choose_the_architecture():
    """The key `architecture` selects the class of settings, and so the network."""
    adapter: TypeAdapter[ArchitectureSettings] = TypeAdapter(ArchitectureSettings)
    for settings in SMALL:
        assert adapter.validate_python(settings.model_dump()) == settings


# What they compute: against a second implementation, written from the text of the paper and functions only.


def _scaled(features: Tensor, state: dict[str, Tensor], norm: str) -> Tensor:
    return features / state[f"{norm}.running_sd"] * state[f"{norm}.gammas"]


def _layer(features: Tensor, state: dict[str, Tensor], block: str, convolution: int, norm: int | None) -> Tensor:
    features = F.conv2d(features, state[f"{block}.{convolution}.weight"], padding=1)
    return F.relu(features if norm is None else _scaled(features, state, f"{block}.{norm}"))


def _reference_unet(noisy: Tensor, state: dict[str, Tensor], blocks: int) -> Tensor:
    features = _layer(_layer(noisy, state, "encoder.0", 0, None), state, "encoder.0", 2, 3)
    skips = [features]
    for block in range(1, blocks):
        name = f"encoder.{block}"
        features = _layer(_layer(F.avg_pool2d(features, 2), state, name, 0, 1), state, name, 3, 4)
        skips.append(features)
    features = _layer(_layer(F.avg_pool2d(features, 2), state, "mid_block", 0, 1), state, "mid_block", 3, 4)
    for block in range(blocks - 1, -1, -1):
        name = f"decoder.{block}"
        up = F.conv_transpose2d(features, state[f"upsample.{block}.weight"], stride=2)
        features = _layer(torch.cat([up, skips[block]], 1), state, name, 0, 1)
        if block:
            features = _layer(features, state, name, 3, 4)
    return F.conv2d(features, state["decoder.0.3.weight"], padding=1)


def _reference_bf_cnn(noisy: Tensor, state: dict[str, Tensor], first_layer_linear: bool) -> Tensor:
    weights = [value for key, value in state.items() if key.startswith("conv_layers")]
    features = F.conv2d(noisy, weights[0], padding=1)
    if not first_layer_linear:
        features = F.relu(features)
    for layer, weight in enumerate(weights[1:-1]):
        features = F.conv2d(features, weight, padding=weight.shape[-1] // 2)
        features = F.relu(_scaled(features, state, f"BN_layers.{layer}"))
    return F.conv2d(features, weights[-1], padding=1)


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_against_a_second_implementation(settings: Settings):
    """The residual is that of the network described in the paper: order of layers, skips, and where ReLUs are not."""
    network, noisy = _trained_like(settings, channels=2), _noisy(channels=2)
    state = network.state_dict()
    match settings:
        case UNetSettings():
            expected = _reference_unet(noisy, state, settings.blocks)
        case BFCNNSettings():
            expected = _reference_bf_cnn(noisy, state, settings.first_layer_linear)
        case BFCNNRFSettings():
            expected = _reference_bf_cnn(noisy, state, first_layer_linear=True)
    assert expected.norm() > 0.01 * noisy.norm()
    assert _relative(network.residual(noisy), expected) < 1e-12
    assert _relative(network(noisy), noisy - expected) < 1e-12


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_is_a_blind_denoiser(settings: Settings):
    """The networks obey the Denoiser protocol and ignore the noise level."""
    network, noisy = _trained_like(settings), _noisy()
    assert isinstance(network, Denoiser)
    assert network.blind
    assert network.image_shape == (1, 16, 16)
    assert torch.equal(network(noisy), network(noisy, torch.tensor([0.1, 0.2, 0.3])))


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_batching_changes_nothing_in_eval(settings: Settings):
    """In eval mode an image is denoised alike whatever shares its batch."""
    network, noisy = _trained_like(settings), _noisy()
    alone = torch.cat([network(image[None]) for image in noisy])
    assert _relative(network(noisy), alone) < 1e-12


# Bias-free laws.


@pytest.mark.parametrize("settings", SMALL, ids=str)
@pytest.mark.parametrize("factor", [1e-3, 0.5, 3.0, 1e3])
def test_homogeneous_in_eval(settings: Settings, factor: float):
    """In eval mode r(cy) = c r(y) for c > 0, but r(-y) is not -r(y)."""
    network, noisy = _trained_like(settings, channels=2), _noisy(channels=2)
    residual = network.residual(noisy)
    assert residual.norm() > 0.01 * noisy.norm()
    assert _relative(network.residual(factor * noisy), factor * residual) < 1e-12
    assert _relative(network.residual(-noisy), -residual) > 0.1


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_not_homogeneous_in_training(settings: Settings):
    """In train mode batch statistics undo any rescaling of the whole batch: r(3y) is r(y), not 3 r(y)."""
    network, noisy = _trained_like(settings, channels=2).train(), _noisy(channels=2, n=8)
    residual = network.residual(noisy)
    assert residual.norm() > 0.01 * noisy.norm()
    assert _relative(network.residual(3 * noisy), residual) < 1e-3


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, inside jvp
@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_output_is_jacobian_times_input_in_eval(settings: Settings):
    """In eval mode f(y) = ∇f(y) y exactly, though f is not linear."""
    network, noisy = _trained_like(settings), _noisy()
    denoised, product = jvp(network, (noisy,), (noisy,))
    assert _relative(denoised, noisy) > 0.01
    assert _relative(product, denoised) < 1e-12
    other = _noisy(seed=6)
    assert _relative(network(noisy + other), denoised + network(other)) > 1e-3


def _support(settings: Settings, side: int, pixel: int) -> tuple[int, int]:
    """Height and width of the region of the input that one pixel of the residual depends on."""
    network = build(settings, (1, side, side)).double().eval()
    for parameter in network.parameters():  # positive weights on a positive image: no ReLU is off, nothing cancels
        nn.init.constant_(parameter, 0.1)
    noisy = torch.ones(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    network.residual(noisy)[0, 0, pixel, pixel].backward()
    assert noisy.grad is not None
    support = noisy.grad[0, 0] > 0
    assert not support[[0, -1]].any()  # the border does not cut it
    return int(support.any(1).sum()), int(support.any(0).sum())


@pytest.mark.parametrize("receptive_field", [5, 9, 13, 23, 43])
def test_receptive_field_of_bf_cnn_rf(receptive_field: int):
    """The receptive field is the one in the name."""
    settings = BFCNNRFSettings(receptive_field=receptive_field, width=1)
    assert _support(settings, side=64, pixel=32) == (receptive_field, receptive_field)


def test_receptive_field_of_bf_cnn():
    """A BF-CNN of L layers sees 2L + 1 pixels."""
    assert _support(BFCNNSettings(layers=21, width=1), side=64, pixel=32) == (43, 43)
    assert _support(BFCNNSettings(layers=6, width=1), side=64, pixel=32) == (13, 13)


@pytest.mark.parametrize(("blocks", "side", "expected"), [(1, 32, {18}), (2, 64, {44}), (3, 128, {92, 100})])
def test_receptive_field_of_unet(blocks: int, side: int, expected: set[int]):
    """A UNet of 1, 2, 3 blocks sees 18, 44, and 92 or 100 pixels, the last depending on where the pixel lies."""
    fields = {_support(UNetSettings(blocks=blocks, width=1), side, side // 2 + shift)[0] for shift in range(2**blocks)}
    assert fields == expected


# Bias-free batch norm.


def _plain_norm(x: Tensor, gammas: Tensor) -> Tensor:
    return x / (x.var(dim=(0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt() * gammas


def _features(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of uneven mean and spread, and γ of both signs."""
    generator = _generator(seed)
    x = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    x = x * torch.tensor([0.01, 0.5, 2.0, 30.0])[:, None, None] + torch.tensor([0.02, -1.0, 3.0, 10.0])[:, None, None]
    return x, torch.randn(1, 4, 1, 1, generator=generator, dtype=torch.float64)


def test_batch_norm_against_plain_autograd():
    """In train mode output and gradients are those of x γ / sqrt(var + 1e-5), differentiated through the variance."""
    x, gammas = _features()
    upstream = torch.randn(x.shape, generator=_generator(1), dtype=torch.float64)
    norm = BiasFreeBatchNorm(4).double()
    norm.gammas.data.copy_(gammas)
    found_x, expected_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected_gammas = gammas.clone().requires_grad_()
    found, expected = norm(found_x), _plain_norm(expected_x, expected_gammas)
    assert _relative(found, expected) < 1e-12
    found.backward(upstream)
    expected.backward(upstream)
    assert found_x.grad is not None
    assert expected_x.grad is not None
    assert norm.gammas.grad is not None
    assert expected_gammas.grad is not None
    for channel in range(4):  # each by itself: their scales differ a thousandfold
        assert _relative(found_x.grad[:, channel], expected_x.grad[:, channel]) < 1e-10
    assert _relative(norm.gammas.grad, expected_gammas.grad) < 1e-10


def test_batch_norm_gradcheck():
    """In train mode the gradients agree with finite differences."""
    x, gammas = (values[:, 1:].clone().requires_grad_() for values in _features(2))
    norm = BiasFreeBatchNorm(3).double()

    def forward(x: Tensor, gammas: Tensor) -> Tensor:
        result: Tensor = functional_call(norm, {"gammas": gammas}, (x,))
        return result

    assert torch.autograd.gradcheck(forward, (x, gammas))


def test_batch_norm_keeps_the_mean():
    """Nothing is subtracted: a constant added to a channel comes out, scaled."""
    x, _ = _features()
    norm = BiasFreeBatchNorm(4).double()
    deviation = (x.var(dim=(0, 2, 3), correction=0) + 1e-5).sqrt()
    assert torch.allclose(norm(x).mean((0, 2, 3)), x.mean((0, 2, 3)) / deviation)
    assert x.mean((0, 2, 3)).abs().min() > 0.01


def test_running_deviation():
    """Each training batch moves running_sd by a tenth of the way to its deviation; eval uses it and leaves it."""
    norm = BiasFreeBatchNorm(4).double()
    expected = torch.ones(1, 4, 1, 1, dtype=torch.float64)
    for seed in range(3):
        x, _ = _features(seed)
        expected = 0.9 * expected + 0.1 * (x.var(dim=(0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
        norm(x)
        assert torch.allclose(norm.running_sd, expected)
    norm.eval()
    x, gammas = _features(9)
    norm.gammas.data.copy_(gammas)
    assert torch.allclose(norm(x), x / expected * gammas)
    assert torch.allclose(norm.running_sd, expected)
    assert not norm.running_sd.requires_grad


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_trains_under_bf16_autocast(settings: Settings):
    """Under bf16 autocast gradients point where those of float32 point, and running deviations stay float32."""
    gradients = []
    for enabled in (False, True):
        network = build(settings, (1, 16, 16))
        network.initialize(_generator(1))
        network.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            residual = network.residual(_noisy(n=8).float())
            loss = (residual.float() - _noisy(n=8, seed=7).float()).square().sum()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        assert {buffer.dtype for buffer in network.buffers()} == {torch.float32}
    assert gradients[0].norm() > 0
    assert F.cosine_similarity(*gradients, dim=0) > 0.99


# Initial weights.


def test_initial_weights():
    """Convolutions start Kaiming normal over fan in; γ start N(0, (2/9/64)²) within ±.025; running_sd at one."""
    network = build(UNetSettings(blocks=2, width=32), (1, 16, 16))
    for norm in (module for module in network.modules() if isinstance(module, BiasFreeBatchNorm)):
        norm.running_sd.fill_(7)
    network.initialize(_generator(3))
    gammas = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            fan_in = module.weight[0].numel()
            standard = module.weight.detach().flatten() * math.sqrt(fan_in / 2)
            # The standard deviation of n normal numbers is 1 ± 1/sqrt(2n), their mean 0 ± 1/sqrt(n): 5 of those.
            assert abs(float(standard.std()) - 1) < 5 / math.sqrt(2 * len(standard))
            assert abs(float(standard.mean())) < 5 / math.sqrt(len(standard))
            assert module.bias is None
        elif isinstance(module, BiasFreeBatchNorm):
            gammas.append(module.gammas.detach().flatten())
            assert torch.equal(module.running_sd, torch.ones_like(module.running_sd))
    all_gammas = torch.cat(gammas) / (2 / 9 / 64)
    assert abs(float(all_gammas.std()) - 1) < 5 / math.sqrt(2 * len(all_gammas))
    assert abs(float(all_gammas.mean())) < 5 / math.sqrt(len(all_gammas))
    assert all_gammas.abs().max() < 0.025 / (2 / 9 / 64)


def test_initial_weights_belong_to_the_generator():
    """Equal seeds give equal weights, other seeds others, and the global random state is not read."""
    networks = []
    for seed, global_seed in [(0, 1), (0, 2), (1, 1)]:
        torch.manual_seed(global_seed)
        network = build(SMALL[0], (1, 16, 16))
        network.initialize(_generator(seed))
        networks.append(torch.cat([value.flatten() for value in network.state_dict().values()]))
    assert torch.equal(networks[0], networks[1])
    assert not torch.equal(networks[0], networks[2])


# The truths that other tests lean on.


def test_truths_are_denoisers():
    """The closed-form denoisers obey the protocol and keep shape and type."""
    images = _noisy(n=4, side=3).float()
    shape = (1, 3, 3)
    truths = [
        GaussianDenoiser.make(shape, seed=0),
        IdealDenoiser(images),
        LinearDenoiser(torch.eye(9), shape),
        IdentityDenoiser(shape),
        ZeroDenoiser(shape),
    ]
    for truth in truths:
        assert isinstance(truth, Denoiser)
        assert truth.image_shape == shape
        denoised = truth(images, torch.full((4,), 0.3))
        assert denoised.shape == images.shape
        assert denoised.dtype == images.dtype
        assert truth.blind or denoised.ne(truth(images, torch.full((4,), 0.6))).any()


@pytest.mark.parametrize("kind", ["gaussian", "ideal"])
def test_truths_obey_miyasawa(kind: str):
    """(f(y) - y) / σ² is the gradient of the log density of noisy images, written out independently."""
    noisy = _noisy(n=1, side=3, seed=8).flatten().requires_grad_()
    sigma = 0.4
    if kind == "gaussian":
        truth: Denoiser = (gaussian := GaussianDenoiser.make((1, 3, 3), seed=0, scale=0.3))
        covariance = gaussian.axes @ gaussian.variances.diag() @ gaussian.axes.T + sigma**2 * torch.eye(
            9, dtype=torch.float64
        )
        law = torch.distributions.MultivariateNormal(gaussian.mean.flatten(), covariance)
        log_density = law.log_prob(noisy)
    else:
        images = _noisy(n=5, side=3)
        truth = IdealDenoiser(images)
        normals = torch.distributions.Normal(images.flatten(1), sigma)
        log_density = normals.log_prob(noisy).sum(1).logsumexp(0)
    (score,) = torch.autograd.grad(log_density, noisy)
    image = noisy.detach().view(1, 1, 3, 3)
    denoised = truth(image, torch.tensor([sigma], dtype=torch.float64))
    assert _relative((denoised - image).flatten() / sigma**2, score) < 1e-9
    assert (denoised - image).norm() > 0.1


def test_gaussian_truth_reaches_its_error():
    """On its own images the Gaussian denoiser's error is the one it states, within 5 standard errors."""
    truth = GaussianDenoiser.make((1, 4, 4), seed=0)
    clean = truth.draw(4000, seed=1)
    noise = torch.randn(clean.shape, generator=_generator(2), dtype=torch.float64)
    denoised = truth(clean + 0.2 * noise, torch.full((4000,), 0.2))
    errors = (denoised - clean).square().mean((1, 2, 3))
    assert abs(float(errors.mean()) - truth.mean_squared_error(0.2)) < 5 * float(errors.std()) / math.sqrt(4000)
    assert truth.mean_squared_error(0.2) < 0.5 * 0.2**2


def test_ideal_truth_returns_an_image_at_low_noise():
    """At low noise the ideal denoiser of a finite set returns the image it was given, and at high noise their mean."""
    images = _noisy(n=5, side=3)
    truth = IdealDenoiser(images)
    assert torch.allclose(truth(images + 0.01, torch.full((5,), 0.05)), images)
    assert torch.allclose(truth(images, torch.full((5,), 1e4)), images.mean(0).expand_as(images), atol=1e-6)
