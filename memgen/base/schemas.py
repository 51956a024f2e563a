"""The schemas of the tables: one observation a row, with a unit and a meaning for every column."""

from collections.abc import Sequence

import pyarrow as pa

# Subjects of the role `reference`, by the quantity that compares with them.
REFERENCES = {"to_linear": "best_linear", "to_optimum": "exact_optimum"}
# Subjects of the role `baseline`, in the order in which they are listed: two oracles, which know the clean image, and
# thresholding of wavelets.
BASELINES = ("wavelet_oracle", "tangent_oracle", "soft_threshold", "hard_threshold")


def _field(name: str, kind: pa.DataType, doc: str, unit: str = "", null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"doc": doc, "unit": unit})


def _schema(name: str, version: int, fields: Sequence[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={"memgen.schema": f"{name}/{version}"})


_STR, _INT, _F64 = pa.string(), pa.int64(), pa.float64()
_SUBJECT = [
    _field("subject", _STR, "name of what is measured: a model, a set of samples, or a reference"),
    _field("role", _STR, "cell (trained by the sweep), imported, reference or baseline"),
    _field(
        "n_train", _INT, "size of the training set; null where there is none or it is not known", "images", null=True
    ),
    _field("part", _STR, "half of the images that the training set of a cell comes from: a or b; else null", null=True),
    _field("train_seed", _INT, "seed of the training of a cell; else null", null=True),
]
_PAIR = [
    _field("subject_a", _STR, "first subject; of twins, the one trained on part a"),
    _field("subject_b", _STR, "second subject; of twins, the one trained on part b"),
    _field("role", _STR, "cell (twins of the sweep) or imported (any two other subjects)"),
    _field("n_train", _INT, "size of each training set", "images", null=True),
    _field("train_seed", _INT, "seed of both trainings", null=True),
]
IMAGES = _schema(
    "images",
    2,
    [
        _field("index", _INT, "position in pixels.npy"),
        _field("image_id", _STR, "hash of the pixels after preprocessing; equal pixels have equal ids"),
        _field("source", _STR, "file that it comes from, with #3 for the third frame, or [17] for a position in it"),
        _field("group", _STR, "what it belongs to: a patient, a volume, a video; null where not known", null=True),
    ],
)
SKIPPED = _schema(
    "skipped",
    1,
    [_field("source", _STR, "file, frame or folder that was not imported"), _field("reason", _STR, "why it was not")],
)
SUBJECT_SKIPPED = _schema(
    "subject_skipped",
    1,
    [_field("set", _STR, "set of images that it belongs to: samples, train or held_out"), *SKIPPED],
)
DUPLICATES = _schema(
    "duplicates",
    1,
    [
        _field("removed_id", _STR, "image that was removed"),
        _field("removed_source", _STR, "where it comes from"),
        _field("kept_id", _STR, "earlier image that it resembles most among those kept"),
        _field("kept_source", _STR, "where that comes from"),
        _field("correlation", _F64, "Pearson correlation of the two area-averaged images; null if constant", null=True),
    ],
)
SPLIT = _schema(
    "split",
    1,
    [
        _field("part", _STR, "a, b or holdout"),
        _field("rank", _INT, "position in the part; the training set for N is ranks 0 to N - 1"),
        _field("index", _INT, "position in pixels.npy"),
        _field("image_id", _STR, "content id"),
    ],
)
SUBJECTS = _schema(
    "subjects",
    2,
    [
        *_SUBJECT,
        _field("has_denoiser", pa.bool_(), "whether the subject has a denoiser"),
        _field("has_samples", pa.bool_(), "whether its samples were imported; the samples of a denoiser are drawn"),
        _field("train_set", _STR, "name of the image set that an imported subject was trained on", null=True),
        _field("held_out_set", _STR, "name of an imported subject's own held-out image set", null=True),
        _field("n_held_out", _INT, "held-out images; null where there are none", "images", null=True),
        _field("source", _STR, "file or folder that the subject was imported from, or the architecture of a cell"),
        _field("warnings", pa.list_(_STR), "what to know of its images and of the model, in sentences"),
    ],
)
TRAINING = _schema(
    "training",
    1,
    [
        *_SUBJECT,
        _field("step", _INT, "optimizer steps done"),
        _field("images_seen", _INT, "training images presented so far", "images"),
        _field("seconds", _F64, "wall time so far, interruptions left out", "s"),
        _field("learning_rate", _F64, "at this step"),
        _field("loss", _F64, "squared error summed over pixels, mean over the images since the last row"),
        _field("output_psnr_db", _F64, "mean PSNR of the denoised images since the last row", "dB"),
    ],
)
SAMPLES = _schema(
    "samples",
    1,
    [
        *_SUBJECT,
        _field("sample", _INT, "index of the sample; its noise depends on (noise_seed, sample) alone"),
        _field("noise_seed", _INT, "seed of the noise streams; null for imported samples", null=True),
        _field("updates", _INT, "updates made before the last denoising; null for imported samples", null=True),
        _field("sigma", _F64, "noise level that the sampler believes at the end", "pixel units", null=True),
        _field("residual_sigma", _F64, "norm of the last residual / sqrt(d)", "pixel units", null=True),
        _field(
            "status",
            _STR,
            "converged, step_cap (not done after max_steps), diverged (sigma above 2, or NaN), or given (imported)",
        ),
    ],
)
TRAJECTORY = _schema(
    "trajectory",
    1,
    [
        _field("subject", _STR, "name of the model in the run"),
        _field("sample", _INT, "index of the sample"),
        _field("step", _INT, "updates made so far"),
        _field("sigma", _F64, "noise level that the sampler believes", "pixel units", null=True),
        _field("residual_sigma", _F64, "norm of the residual / sqrt(d)", "pixel units", null=True),
    ],
)
RESTORED = _schema(
    "restored",
    1,
    [
        *_SUBJECT,
        _field("task", _STR, "what was measured: inpainting, random_pixels, ...; see memgen.inverse"),
        _field("amount", _F64, "how much: side of the square or of the blocks, share, or cutoff, after the task"),
        _field("n_measured", _INT, "real numbers measured, the rank of P"),
        _field("sample", _INT, "rank of the image x in the holdout, and index of its noise"),
        _field("image_id", _STR, "content id of that image"),
        _field("noise_seed", _INT, "seed of the noise streams, and of random measurements"),
        _field("updates", _INT, "updates made before the last denoising"),
        _field("sigma", _F64, "noise level that the sampler believes at the end", "pixel units", null=True),
        _field("residual_sigma", _F64, "norm of the last direction / sqrt(d)", "pixel units", null=True),
        _field("status", _STR, "converged, step_cap or diverged, as in the table samples"),
        _field("measured_error", _F64, "norm of P x' - P x / sqrt(d), x' the restored image: rounding", "pixel units"),
        _field("output_psnr_db", _F64, "PSNR of x', peak 1; null where infinite", "dB", null=True),
        _field("filled_psnr_db", _F64, "PSNR of P x completed by the holdout's mean, where x' starts", "dB", null=True),
        _field("pseudo_psnr_db", _F64, "PSNR of P x, the pseudo-inverse of the measurement", "dB", null=True),
    ],
)
NEIGHBORS = _schema(
    "neighbors",
    3,
    [
        _field("query_kind", _STR, "sample, holdout, train or user"),
        _field("query", _INT, "index of the sample, or position of the image among the queries"),
        _field("query_id", _STR, "content id of the query"),
        _field("query_source", _STR, "file that the query comes from; null for a drawn sample", null=True),
        _field("subject", _STR, "subject of the sample, or whose training set is searched; null for others", null=True),
        _field("role", _STR, "role of that subject: cell or imported; null without one", null=True),
        _field("n_train", _INT, "size of the training set searched", "images", null=True),
        _field("part", _STR, "part of the denoiser that drew the sample", null=True),
        _field("train_seed", _INT, "seed of its training", null=True),
        _field("reference", _STR, "name of the index searched: train_a, train_b, holdout, or a user's"),
        _field("n_reference", _INT, "images in that index", "images"),
        _field("n_clusters", _INT, "duplicate clusters in that index", "clusters"),
        _field("metric", _STR, "correlation, cosine or rmse"),
        _field("rank", _INT, "1 = nearest"),
        _field("reference_id", _STR, "content id of the neighbor"),
        _field("reference_source", _STR, "file that the neighbor comes from; null where it is not known", null=True),
        _field("reference_index", _INT, "position of the neighbor in the index"),
        _field("cluster", _INT, "position of the leader of the neighbor's duplicate cluster"),
        _field("value", _F64, "the metric between query and neighbor, exact; null where undefined", null=True),
    ],
)
SIMILARITY = _schema(
    "similarity",
    1,
    [
        *_PAIR,
        _field("kind", _STR, "same_noise, different_noise (null), or train_train (null: nearest across the halves)"),
        _field("item_a", _INT, "index of the sample of a, or rank of the training image of a"),
        _field("item_b", _INT, "index of the sample of b, or rank of the training image of b"),
        _field("metric", _STR, "correlation, cosine or rmse"),
        _field("value", _F64, "the metric between the two images; null where undefined", null=True),
    ],
)
PSNR = _schema(
    "psnr",
    1,
    [
        *_SUBJECT,
        _field("kind", _STR, "train (images the denoiser was trained on) or holdout"),
        _field("image_id", _STR, "content id of the clean image"),
        _field("sigma", _F64, "standard deviation of the added noise", "pixel units"),
        _field("noise_draw", _INT, "which independent noise image was added"),
        _field("input_psnr_db", _F64, "-20 log10 sigma", "dB"),
        _field(
            "output_psnr_db", _F64, "PSNR of the denoised image, peak 1; null where infinite or NaN", "dB", null=True
        ),
    ],
)
LIKELIHOOD = _schema(
    "likelihood",
    1,
    [
        *_SUBJECT,
        _field("kind", _STR, "train (images the denoiser was trained on) or holdout"),
        _field("image_id", _STR, "content id of the clean image, to which noise of sigma_low is added"),
        _field("sigma_low", _F64, "noise level of the density, where the flow ends", "pixel units"),
        _field("sigma_high", _F64, "noise level at which the flow starts, from the mean image", "pixel units"),
        _field("dimension", _INT, "d, the numbers of an image"),
        _field("log_density", _F64, "of the noisy image, natural logarithm, mean over probes", "nats"),
        _field("probe_error", _F64, "its standard error over the probes of the trace", "nats"),
        _field("step_change", _F64, "how much it changed when the number of steps was doubled", "nats"),
        _field("bits_per_dim", _F64, "8 - log2 of the density / d, as for 8-bit pixels", "bits per dimension"),
    ],
)
MEMBERSHIP = _schema(
    "membership",
    1,
    [
        *_SUBJECT,
        _field("score", _STR, "psnr of the denoised image, or log_density"),
        _field("sigma", _F64, "noise level; null for the mean over all, and for log_density", "pixel units", null=True),
        _field("independent", _STR, "the independent unit: image, or group, whose images' scores are averaged"),
        _field("n_units", _INT, "units of T"),
        _field("n_held_out", _INT, "units of H"),
        _field("gap", _F64, "mean score on T minus that on H, in `unit`", null=True),
        _field("gap_low", _F64, "lower end of its 95 % interval", null=True),
        _field("gap_high", _F64, "upper end of its 95 % interval", null=True),
        _field("unit", _STR, "unit of the gap: dB or nats"),
        _field("auc", _F64, "probability that T has the higher score; 1/2 = nothing to see", null=True),
        _field("auc_low", _F64, "lower end of its 95 % interval", null=True),
        _field("auc_high", _F64, "upper end of its 95 % interval", null=True),
        _field("tpr", _F64, "share of T above the threshold that H exceeds with probability fpr", null=True),
        _field("tpr_low", _F64, "lower end of its 95 % Clopper-Pearson interval", null=True),
        _field("tpr_high", _F64, "upper end of that interval", null=True),
        _field("fpr", _F64, "probability of a false positive, at most 1 %; null where H is too small", null=True),
    ],
)
DISTANCES = _schema(
    "distances",
    1,
    [
        *_PAIR,
        _field(
            "kind",
            _STR,
            "models, samples_a, samples_b, empirical_a, empirical_b or empirical; see memgen.measures.distances",
        ),
        _field("image_id", _STR, "content id of the clean image, or the sample that noise was added to"),
        _field("sigma", _F64, "standard deviation of the added noise", "pixel units"),
        _field("noise_draw", _INT, "which independent noise image was added"),
        _field("value", _F64, "squared distance of the two denoised images / d", "pixel units^2"),
        _field("weight", _F64, "what a value at this noise level adds to the bits", "bits / pixel units^2", null=True),
    ],
)
LEVELS = _schema(
    "levels",
    2,
    [
        _field("n_train", _INT, "training-set size of the sweep; null for an imported subject", "images", null=True),
        _field("subject", _STR, "name of an imported subject; null for a training-set size", null=True),
        _field("quantity", _STR, "disagreement, bits_density, to_empirical, to_linear, to_optimum or excess_error"),
        _field("sigma", _F64, "noise level", "pixel units"),
        _field("estimate", _F64, "null where undefined: the denominator of a ratio is below its floor", null=True),
        _field("low", _F64, "lower end of the 95 % interval; null where there is none", null=True),
        _field("high", _F64, "upper end of the 95 % interval; null where there is none", null=True),
        _field("n", _INT, "independent units behind the interval (images or samples)"),
        _field("unit", _STR, "unit of the estimate"),
        _field("status", _STR, "whether the estimate and its interval exist; see memgen.base.estimates"),
    ],
)
TRANSITION = _schema(
    "transition",
    3,
    [
        _field(
            "n_train", _INT, "N of the sweep; null for transition points and imported subjects", "images", null=True
        ),
        _field("subject", _STR, "name of an imported subject; null for a size and for a transition point", null=True),
        _field("quantity", _STR, "what is estimated; see memgen.findings.transition"),
        _field("estimate", _F64, "null where it does not exist or is not reached", null=True),
        _field("low", _F64, "lower end of the interval; those of a sweep's sizes hold together with 95 %", null=True),
        _field("high", _F64, "upper end of the interval; null where there is none", null=True),
        _field("n", _INT, "independent units behind the interval (samples or images)"),
        _field("unit", _STR, "unit of the estimate"),
        _field("status", _STR, "whether the estimate and its interval exist; see memgen.base.estimates"),
        _field("sigma_low", _F64, "lowest noise level of the bits; null for others", "pixel units", null=True),
        _field("sigma_high", _F64, "highest noise level of the bits; null for others", "pixel units", null=True),
        _field("note", _STR, "what the interval covers, or why something is missing; for people"),
    ],
)
SIGNIFICANCE = _schema(
    "significance",
    4,
    [
        *_SUBJECT,
        _field("sample", _INT, "index of the sample"),
        _field("nearest_id", _STR, "content id of the nearest representative in the pool of T and H, in `space`"),
        _field("nearest_in", _STR, "T (training set) or H (never trained on): the label of that representative"),
        _field("train_id", _STR, "content id of the nearest training image by correlation"),
        _field("correlation", _F64, "of the sample with that image; null where undefined", null=True),
        _field("cluster", _INT, "number of the representative, and of its cluster of near-duplicates, in the pool"),
        _field("unit", _INT, "number of its unit, which competes: the representative itself, or its group"),
        _field("W", _F64, "score in the competition: + in T, - in H; null where infinite", null=True),
        _field("p", _F64, "conformal p-value against held-out images"),
        _field("q", _F64, "the same after Benjamini & Hochberg"),
        _field("discovered", pa.bool_(), "found by the competition at its rate q"),
        _field("flagged", pa.bool_(), "found by the conformal test at the same rate"),
        _field(
            "space", _STR, "space in which the sample lies deepest, where it is judged; see measures.copies.matching"
        ),
        _field("closeness", _F64, "similarity to the nearest representative in that space", null=True),
        _field("found_train_id", _STR, "closest image of T that was found there; null for none", null=True),
        _field("found_train", _F64, "similarity to it", null=True),
        _field("found_held_out_id", _STR, "closest image of H that was found there; null for none", null=True),
        _field("found_held_out", _F64, "similarity to it", null=True),
        _field("compared", _STR, "which part of the sample is compared: whole, left, right, upper or lower"),
        _field("mirrored", pa.bool_(), "whether the sample was mirrored so as to fit; then moved, turned and zoomed"),
        _field("negative", pa.bool_(), "whether the negative of the sample is what fits"),
        _field("shift_x", _F64, "how far the sample was moved to the right", "pixels"),
        _field("shift_y", _F64, "how far it was moved down", "pixels"),
        _field("rotation", _F64, "how far it was turned clockwise", "degrees"),
        _field("zoom", _F64, "by which factor it was enlarged"),
        _field("definition", _STR, "version of the definitions of these columns"),
    ],
)
COPIES = _schema(
    "copies",
    6,
    [
        *_SUBJECT,
        _field(
            "unit", _STR, "what was put into T or H as a whole, and competes: image (near-duplicates are one) or group"
        ),
        _field("spaces", pa.list_(_STR), "spaces that were searched"),
        _field("n_pool_train", _INT, "units of the training set T in the pool", "units"),
        _field("n_pool_heldout", _INT, "units in the pool of H, the other part and the holdout", "units"),
        _field("n_leaks", _INT, "clusters of near-duplicates with members in both T and H"),
        _field("samples", _INT, "samples tested"),
        _field("q", _F64, "false-discovery rate aimed at"),
        _field("answer", _STR, "found, none, or cannot decide"),
        _field("discoveries", _INT, "training units found, each by its deepest sample"),
        _field("alike", _INT, "discoveries that look like the image found: correlation of at least .95"),
        _field("attached", _INT, "further samples at the units found; they have no rate of their own"),
        _field("k_min", _INT, "training units that must be found for any to be found, at best"),
        _field("n_competing", _INT, "units that compete"),
        _field("competition_p", _F64, "probability that chance gives training units such a lead in the competition"),
        _field("memorized_fraction", _F64, "share of samples nearest to T, less that expected by chance"),
        _field("low", _F64, "lower end of its 95 % interval"),
        _field("high", _F64, "upper end of its 95 % interval"),
        _field("p", _F64, "label-permutation p-value of: the model does not know which images are in T"),
        _field("flagged", _INT, "samples that the conformal test flags at the rate q"),
        _field("flagged_images", _INT, "training units that these are nearest to"),
        _field("most_shared", _INT, "largest number of flagged samples that are nearest to one training unit"),
        _field("conformal_k_min", _INT, "samples that must be flagged for any to be flagged, at best"),
        _field("conformal_p", _F64, "probability that chance gives samples such a lead over held-out images"),
        _field("judged_by", _INT, "held-out images in the conformal test", "images"),
        _field("exact_copies", _INT, "training images that were looked for as if they were samples", "images"),
        _field("competition_reach", _F64, "share of these that count in the competition, where they lead most"),
        _field("competition_as_deep", _INT, "held-out units that compete there with a depth as large", "units"),
        _field("competition_against", _F64, "share of the training images that a held-out image represents"),
        _field("conformal_reach", _F64, "share of these that count in the conformal test, where they lead most"),
        _field("conformal_as_deep", _INT, "held-out images there with a depth as large", "images"),
        _field("closest", _F64, "largest correlation of a sample with a training image"),
        _field("probes", _INT, "lists of images that each sample looked at; null if at all images", null=True),
        _field("checked", _INT, "samples that were searched exactly too; null if all were", null=True),
        _field("recall", _F64, "share of the nearest images of these that the approximate search found", null=True),
        _field("recall_low", _F64, "lower end of its 95 % interval", null=True),
        _field("recall_high", _F64, "upper end of its 95 % interval", null=True),
        _field("checked_fraction", _F64, "memorized fraction of these samples by the approximate search", null=True),
        _field("exact_fraction", _F64, "memorized fraction of these samples by the exact search", null=True),
    ],
)
PEERS = _schema(
    "peers",
    1,
    [
        *_SUBJECT,
        _field("measure", _STR, "name of the measure; see memgen.measures.peers"),
        _field("estimate", _F64, "its value on the samples; null where undefined", null=True),
        _field("low", _F64, "lower end of its 95 % interval", null=True),
        _field("high", _F64, "upper end of its 95 % interval", null=True),
        _field("n", _INT, "samples behind it"),
        _field("held_out", _F64, "the same measure on held-out images, which nobody has copied", null=True),
        _field("held_out_low", _F64, "lower end of its 95 % interval", null=True),
        _field("held_out_high", _F64, "upper end of its 95 % interval", null=True),
        _field("n_held_out", _INT, "held-out images behind it", "images"),
        _field("unit", _STR, "unit of both values"),
    ],
)
DIVERSITY = _schema(
    "diversity",
    1,
    [
        *_SUBJECT,
        _field("space", _STR, "space in which images are compared"),
        _field("measure", _STR, "name of the measure; see memgen.measures.diversity"),
        _field("estimate", _F64, "its value on the samples; null where it was not measured", null=True),
        _field("low", _F64, "lower end of its 95 % interval", null=True),
        _field("high", _F64, "upper end of its 95 % interval", null=True),
        _field("n", _INT, "samples or reference images that are averaged, or samples of the Vendi score"),
        _field("held_out", _F64, "the same of held-out images in the place of samples", null=True),
        _field("held_out_low", _F64, "lower end of its 95 % interval", null=True),
        _field("held_out_high", _F64, "upper end of its 95 % interval", null=True),
        _field("n_held_out", _INT, "images behind that"),
        _field("unit", _STR, "unit of both values"),
    ],
)
CALIBRATION = _schema(
    "calibration",
    1,
    [
        _field("n_train", _INT, "images in T", "images"),
        _field("repeat", _INT, "which redraw of T, H and the samples"),
        _field("control", _STR, "how the samples were made; see memgen.calibration"),
        _field("share", _F64, "share of copies planted; null where there are none", null=True),
        _field("eps", _F64, "standard deviation of the noise on them", "pixel units", null=True),
        _field("samples", _INT, "samples tested"),
        _field("copies", _INT, "of them copies"),
        _field("q", _F64, "false-discovery rate aimed at"),
        _field("discoveries", _INT, "training images (clusters) found"),
        _field("false_discoveries", _INT, "of them by samples that are no copies"),
        _field("answer", _STR, "found, none, or cannot decide"),
        _field("k_min", _INT, "training images that must be found for any to be found"),
        _field("memorized_fraction", _F64, "share of samples nearest to T, less that expected by chance"),
        _field("low", _F64, "lower end of its 95 % interval"),
        _field("high", _F64, "upper end of its 95 % interval"),
        _field("known_fraction", _F64, "the true one; null where the control does not fix it", null=True),
        _field("p", _F64, "label-permutation p-value"),
    ],
)
AT_RISK = _schema(
    "at_risk",
    1,
    [
        _field("unit", _INT, "number of the training unit in the pool: an image, or a group"),
        _field("group", _STR, "name of the group; null where units are images", null=True),
        _field("image_id", _STR, "content id of its image that a sample lies deepest at"),
        _field("source", _STR, "where that image comes from"),
        _field("samples", _INT, "samples that are nearest to the unit"),
        _field("flagged", _INT, "of them flagged by the conformal test"),
        _field("discovered", pa.bool_(), "whether the competition found the unit"),
        _field("sample", _INT, "index of the sample that competes for it"),
        _field("sample_source", _STR, "where that sample comes from"),
        _field("W", _F64, "its score in the competition", null=True),
        _field("space", _STR, "space in which it competes"),
        _field("closeness", _F64, "similarity of the two there", null=True),
    ],
)
CANARIES = _schema(
    "canaries",
    1,
    [
        _field("file", _STR, "name of the image"),
        _field("image_id", _STR, "its content id"),
        _field("trained", pa.bool_(), "whether it was trained on; a random draw decided"),
        _field("samples", _INT, "samples that are nearest to it"),
        _field("score", _F64, "how much the deepest of them stands out; 0 for none"),
        _field("auc", _F64, "of all canaries: probability that a trained one has the larger score"),
        _field("p", _F64, "of all canaries: exact p-value that samples do not depend on the draw"),
    ],
)
GAPS = _schema(
    "gaps",
    1,
    [
        _field("sigma", _F64, "standard deviation of the noise", "pixel units"),
        _field("train", _F64, "mean output PSNR of units of T", "dB"),
        _field("held_out", _F64, "the same of units of H", "dB"),
        _field("gap", _F64, "their difference", "dB"),
        _field("low", _F64, "lower end of its interval; those of all noise levels hold together", "dB", null=True),
        _field("high", _F64, "upper end", "dB", null=True),
        _field("auc", _F64, "probability that a unit of T is denoised better than one of H"),
        _field("tpr", _F64, "share of T that an attack finds at 1 % false alarms; null with too few units", null=True),
        _field("tpr_low", _F64, "lower end of its interval", null=True),
        _field("tpr_high", _F64, "upper end", null=True),
        _field("n_train", _INT, "units of T: images, or groups"),
        _field("n_held_out", _INT, "units of H"),
    ],
)
READINGS = _schema(
    "readings",
    1,
    [
        _field("images_seen", _INT, "training images that the model had seen, counted with repetitions", "images"),
        _field("kind", _STR, "train or holdout"),
        _field("image_id", _STR, "content id of the clean image"),
        _field("psnr_db", _F64, "output PSNR, averaged over noise levels and draws", "dB"),
    ],
)
DRAWN = _schema(
    "drawn",
    1,
    [
        _field("images_seen", _INT, "training images that the model had seen, counted with repetitions", "images"),
        _field("samples", _INT, "samples that were drawn, from the same noise at each reading"),
        _field("unfinished", _INT, "of these, samples that did not converge"),
        _field("memorized_fraction", _F64, "share of samples nearest to T, less that expected by chance"),
        _field("low", _F64, "lower end of its 95 % interval"),
        _field("high", _F64, "upper end"),
        _field("p", _F64, "exact p-value against a model that does not know which images are in T"),
        _field("found", _INT, "training images that the samples depend on"),
    ],
)
TIMELINE = _schema(
    "timeline",
    1,
    [
        _field("images_seen", _INT, "training images that the model had seen, counted with repetitions", "images"),
        _field("train", _F64, "mean output PSNR of training images", "dB"),
        _field("held_out", _F64, "the same of held-out images", "dB"),
        _field("gap", _F64, "their difference", "dB"),
        _field("low", _F64, "lower end of its interval; those of all readings hold together", "dB", null=True),
        _field("high", _F64, "upper end", "dB", null=True),
        _field("growth", _F64, "gap minus that of the first reading", "dB"),
        _field("growth_low", _F64, "lower end of its interval", "dB", null=True),
        _field("growth_high", _F64, "upper end", "dB", null=True),
        _field("memorizes", pa.bool_(), "whether one of the two intervals lies above 0"),
        _field("as_good", pa.bool_(), "whether held-out images may be denoised as well as at the best reading"),
    ],
)
PLANTED = _schema(
    "planted",
    1,
    [
        _field("kind", _STR, "how copies were made; see memgen.measures.copies.planting"),
        _field("share", _F64, "share of the samples that were replaced by copies"),
        _field("repeat", _INT, "which draw of the copied images"),
        _field("samples", _INT, "samples tested"),
        _field("planted", _INT, "of them copies"),
        _field("found", _INT, "planted copies that the competition found"),
        _field("flagged", _INT, "planted copies that the conformal test flags"),
        _field("either", _INT, "planted copies that one of the two tests reports"),
        _field("found_others", _INT, "other samples that the competition found"),
        _field("flagged_others", _INT, "other samples that the conformal test flags"),
    ],
)
_JACOBIAN = [
    *_SUBJECT,
    _field("image_id", _STR, "content id of the clean image"),
    _field("sigma", _F64, "standard deviation of the added noise", "pixel units"),
    _field("noise_draw", _INT, "which independent noise image was added"),
]
BASIS = _schema(
    "basis",
    2,
    [
        *_JACOBIAN,
        _field("k", _INT, "1 = the largest eigenvalue"),
        _field("eigenvalue", _F64, "of the symmetric part of the Jacobian J: the shrinkage factor"),
        _field("singular_value", _F64, "the k-th largest of J; null where J is not known as a matrix", null=True),
        _field("coefficient_clean", _F64, "<x, e_k> of the clean image", "pixel units"),
        _field("coefficient_noisy", _F64, "<y, e_k> of the noisy image", "pixel units"),
        _field("local_frequency", _F64, "rms gradient of e_k / (2 pi rms of e_k)", "cycles per pixel", null=True),
        _field("contour_energy", _F64, "e_k^2 on the contours of x; 1 = a random vector; null without", null=True),
        _field("contour_direction", _F64, "1 = e_k varies across contours, 0 = along them, 1/2 = random", null=True),
    ],
)
BASIS_SUMMARY = _schema(
    "basis_summary",
    2,
    [
        *_JACOBIAN,
        _field("eigenpairs", _INT, "how many are known: all d, or the largest where J is not known as a matrix"),
        _field("residual", _F64, "each eigenvalue is within this of a true one; 0 from the matrix"),
        _field("converged", pa.bool_(), "whether that is as small as was asked for"),
        _field("trace", _F64, "sum of the eigenvalues: effective dimension (Kadkhodaie et al.)"),
        _field("trace_error", _F64, "its standard error over random directions; 0 from the matrix"),
        _field("dimension_squares", _F64, "sum of squared singular values: effective dimension (Mohan et al.)"),
        _field("dimension_99", _INT, "singular values that reach 99 % of their sum; null without J", null=True),
        _field("asymmetry", _F64, "||J - J^T|| / ||J||; 0 for an exact posterior mean"),
        _field("negative_part", _F64, "share of negative eigenvalues in the sum of |lambda|; null likewise", null=True),
        _field("linearity_error", _F64, "||J y - f(y)|| / ||f(y)||; 0 for a bias-free network"),
        _field("squared_error", _F64, "||f(y) - x||^2 / d", "pixel units^2"),
        _field("sure", _F64, "Stein's estimate of it, without x", "pixel units^2"),
        _field("posterior_error", _F64, "sigma^2 tr J / d, its mean for an exact posterior mean", "pixel units^2"),
        _field("local_frequency", _F64, "rms of the first m eigenvectors' (see basis)", "cycles per pixel", null=True),
        _field("local_frequency_chance", _F64, "expected of random vectors", "cycles per pixel"),
        _field("contour_energy", _F64, "mean of the first m eigenvectors'; 1 = random; null without", null=True),
        _field("contour_direction", _F64, "mean of the first m eigenvectors'; 1/2 = random; null without", null=True),
        _field("overlap_rank", _INT, "m, the trace rounded, but no more than eigenpairs: vectors compared"),
        _field("overlap_chance", _F64, "overlap expected of random bases, m / d"),
        _field("overlap_dct", _F64, "of the first m eigenvectors with the m slowest cosines: mean squared cosine"),
        _field("overlap_pca", _F64, "with the first m principal components; null where not known", null=True),
        _field("overlap_twin", _F64, "with the first m eigenvectors of the twin; null without one", null=True),
        _field("overlap_tangent", _F64, "of the first t with the t tangents; null where not known", null=True),
        _field("overlap_tangent_chance", _F64, "expected of a random basis, t / d; null where not known", null=True),
    ],
)
SHRINKAGE = _schema(
    "shrinkage",
    1,
    [
        _field("kind", _STR, "train or holdout"),
        _field("image_id", _STR, "content id of the clean image"),
        _field("sigma", _F64, "noise level", "pixel units"),
        _field("trace", _F64, "trace of the Jacobian: how many dimensions of the noisy image are kept"),
        _field("trace_error", _F64, "its standard error over random directions; 0 from the whole matrix"),
        _field("asymmetry", _F64, "||J - J^T|| / ||J||; 0 for an exact posterior mean"),
        _field("squared_error", _F64, "||f(y) - x||^2 / d", "pixel units^2"),
        _field("sure", _F64, "Stein's estimate of it, without x", "pixel units^2"),
    ],
)
SLOPES = _schema(
    "slopes",
    2,
    [
        _field("subject", _STR, "reference, baseline or imported model; null for all cells of an N", null=True),
        _field("role", _STR, "cell, imported, reference or baseline"),
        _field("n_train", _INT, "size of their training sets; null for others", "images", null=True),
        _field("n_subjects", _INT, "denoisers averaged: both twins, every training seed"),
        _field("low_db", _F64, "least input PSNR among the noise levels used", "dB"),
        _field("high_db", _F64, "largest of them", "dB"),
        _field("n_levels", _INT, "noise levels used"),
        _field("n", _INT, "held-out images behind the intervals", "images"),
        _field("slope", _F64, "of output against input PSNR, by least squares", null=True),
        _field("low", _F64, "lower end of its 95 % interval", null=True),
        _field("high", _F64, "upper end of its 95 % interval", null=True),
        _field("level_db", _F64, "mean output PSNR, the height of the line at its middle", "dB", null=True),
        _field("level_low", _F64, "lower end of its 95 % interval", "dB", null=True),
        _field("level_high", _F64, "upper end of its 95 % interval", "dB", null=True),
        _field("theory", _F64, "the best slope, by the regularity of the class; null where not known", null=True),
        _field("over_oracle", _F64, "slope less that of the oracle in wavelets, on the same images", null=True),
        _field("over_oracle_low", _F64, "lower end of its 95 % interval, paired by image", null=True),
        _field("over_oracle_high", _F64, "upper end of that interval", null=True),
        _field("gain_db", _F64, "10 log10 of sigma^2 over mean squared error, mean over levels", "dB", null=True),
        _field("gain_low", _F64, "lower end of its 95 % interval", "dB", null=True),
        _field("gain_high", _F64, "upper end of its 95 % interval", "dB", null=True),
        _field("gain_theory", _F64, "10 log10(d / k) on a manifold of k dimensions; null elsewhere", "dB", null=True),
    ],
)
SCHEMAS = {
    schema.metadata[b"memgen.schema"].decode().partition("/")[0]: schema
    for schema in (
        IMAGES, SKIPPED, SUBJECT_SKIPPED, DUPLICATES, SPLIT, SUBJECTS, TRAINING, SAMPLES, TRAJECTORY, RESTORED,
        NEIGHBORS, SIMILARITY, PSNR, LIKELIHOOD, MEMBERSHIP, DISTANCES,
        LEVELS, TRANSITION, SIGNIFICANCE, COPIES, PEERS, DIVERSITY, CALIBRATION,
        AT_RISK, CANARIES, DRAWN, GAPS, PLANTED, READINGS, TIMELINE,
        BASIS, BASIS_SUMMARY, SHRINKAGE, SLOPES,
    )
}  # fmt: skip
# The tables that a run keeps. What a person asked for beside the sweep has kinds of its own, which no summary counts.
KINDS = SCHEMAS | {
    "searches": NEIGHBORS,
    "method_samples": SAMPLES,
    "own_basis": BASIS,
    "own_basis_summary": BASIS_SUMMARY,
    "subject_samples": IMAGES,
}
