"""The two tests for copies over a whole sweep: what counts as a find, what could have gone unseen, and the words."""

import pyarrow as pa
import pytest
import tested

from memgen.base.intervals import detectable_share
from memgen.findings.copies import ASSUMPTIONS, LEVEL, MOST_UNSEEN, judge
from memgen.measures.copies.lead import Reach, fewest

FOUND = {"answer": "found", "discoveries": 5, "alike": 2, "attached": 7, "competition_p": 1e-6}
FLAGGED = {"flagged": 90, "flagged_images": 2, "most_shared": 88, "conformal_p": 1e-6}


def table(*rows):
    return pa.concat_tables(list(rows))


def one(models=None, **changes):
    """What is said of a model at N = 64 alone."""
    return judge(tested.copies(tested.model(), **changes), models)[64]


def test_the_models_of_a_sweep_share_one_error():
    """A find counts if its probability is at most LEVEL over the number of models; of one model, at most LEVEL."""
    assert pytest.approx(0.0125) == LEVEL
    for name, found in (("competition", "discoveries"), ("conformal", "flagged")):
        for models in (1, 10):
            limit = LEVEL / models
            assert getattr(one(models, **{found: 1, f"{name}_p": limit}), name)
            assert not getattr(one(models, **{found: 1, f"{name}_p": limit * 1.001}), name)
        assert not getattr(one(**{found: 0, f"{name}_p": 0.0}), name)


def test_models_are_those_of_the_table_unless_told_otherwise():
    """Every model of the sweep counts; imported subjects are judged alone and do not count."""
    rows = [tested.copies(tested.model(n, part)) for n in (4, 64) for part in "ab"]
    found = judge(table(*rows, tested.copies(tested.imported())))
    assert list(found) == [4, 64, "theirs"]
    assert found[4].limit == found[64].limit == LEVEL / 4
    assert found["theirs"].limit == LEVEL
    assert judge(table(*rows), 40)[4].limit == LEVEL / 40
    assert judge(None) == {}
    assert [row["part"] for row in found[4].rows] == ["a", "b"]


def test_what_could_have_gone_unseen():
    """The better of the two tests counts in each model, and the worst of the models."""
    images = fewest(64 / (0.05 * 6400), LEVEL, 64, 6400, 60)
    samples = fewest(200 / (0.05 * 4097), LEVEL, 200, 4096)
    assert (images, samples) == (1, 2)
    assert one().unseen == detectable_share(1, 200)
    assert one(n_pool_train=6400).unseen == detectable_share(2, 200)
    assert one(n_pool_train=6400, judged_by=50).unseen == detectable_share(fewest(20, LEVEL, 6400, 6400, 60), 200)
    two = judge(table(*(tested.copies(tested.model(64, part), samples=m) for part, m in (("a", 40), ("b", 500)))))
    assert two[64].unseen == detectable_share(fewest(0.2, LEVEL / 2, 64, 6400, 60), 40) > MOST_UNSEEN
    assert one(n_pool_train=6400, n_competing=3, judged_by=9, samples=8).unseen == 1


START = "200 samples of the model were tested for copies in two ways."
COMPETITION = "The competition"
CONFORMAL = "The conformal test"
CLOSEST = "The closest pair of a sample and a training image has a correlation of .900."


def test_words_where_nothing_is_found():
    """Both tests with what they assume, the closest pair, and the share of copies that could have gone unseen."""
    assert one().sentences == [
        START,
        f"{COMPETITION} found no training image that samples depend on.",
        f"{CONFORMAL} flags no sample.",
        CLOSEST,
        "Copies in fewer than 1.5% of the samples could have gone unseen: it takes 1 training image or 2 samples for "
        "the tests to find something.",
    ]
    assert one(n_pool_train=6400, n_competing=3).sentences[-1] == (
        "Copies in fewer than 2.3% of the samples could have gone unseen: it takes 2 samples for the tests to find "
        "something."
    )
    blind = one(n_pool_train=6400, n_competing=3, judged_by=9, samples=8)
    assert blind.sentences[-1] == (
        "Neither test could have found copies, however many there are: there are too few held-out images."
    )
    assert judge(tested.copies(tested.model()))[64].sentences[0] == START


def test_words_where_held_out_images_hide_copies():
    """Held-out images as deep as exact copies must be outweighed, and the sentence says how many there are."""
    hidden = one(n_pool_train=6400, n_competing=3, conformal_as_deep=10)
    count = fewest(200 / (0.05 * 4097), LEVEL, 200, 4096, reached=Reach(1, 10))
    assert hidden.unseen == detectable_share(count, 200) > detectable_share(2, 200)
    assert hidden.sentences[-1] == (
        f"Copies in fewer than {hidden.unseen:.1%} of the samples could have gone unseen: it takes {count} samples for "
        "the tests to find something, since 10 of 4,096 held-out images lie as deep in the neighborhood of a training "
        "image as exact copies do. Near-duplicates of training images among the held-out images do so."
    )
    half = one(n_pool_train=6400, n_competing=3, conformal_reach=0.5)
    assert half.unseen == 2 * detectable_share(2, 200)
    assert "it takes 4 samples" in half.sentences[-1]
    none = one(n_pool_train=6400, n_competing=3, conformal_reach=0.0, conformal_as_deep=1)
    assert none.unseen == 1
    assert none.sentences[-1].startswith(
        "Neither test could have found copies, however many there are: 1 of 4,096 held-out images lies as deep"
    )


def test_deep_competitors_grow_with_the_number_of_samples():
    """With more samples more held-out images compete, and as many times as many lie as deep as copies."""
    clean, crowded = (one(n_pool_train=6400, judged_by=9, competition_as_deep=deep) for deep in (0, 5))
    assert clean.samples_needed is not None
    assert crowded.samples_needed is None or crowded.samples_needed > clean.samples_needed


def test_words_where_the_competition_finds_images():
    """Their number, how many look alike, and how many more samples are at them; of several models, each."""
    found = one(**FOUND).sentences
    assert found[1] == (
        f"{COMPETITION} found 5 training images that samples depend on, at a false-discovery rate of 5%. 2 of 5 "
        "correlate with the sample at 0.95 or more, pixel by pixel. For 7 further samples, the nearest image is one of "
        "these."
    )
    assert found[-1] == CLOSEST
    both = judge(
        table(
            tested.copies(tested.model(64, "a"), **FOUND, closest=0.99),
            tested.copies(tested.model(64, "b"), **FOUND | {"discoveries": 1, "alike": 0, "attached": 1}),
        )
    )[64].sentences
    assert both[0] == "400 samples of 2 models were tested for copies in two ways."
    assert "found 6 training images that samples depend on (5 for n64-s0-a and 1 for n64-s0-b), at" in both[1]
    assert "2 of 6 correlate with the sample at 0.95 or more, pixel by pixel" in both[1]
    assert "For 8 further samples" in both[1]
    assert both[-1].endswith("of .990.")
    assert "found 1 training image that samples" in one(**FOUND | {"discoveries": 1}).sentences[1]


def test_words_where_the_conformal_test_flags_samples():
    """How many, of how many images, and how many share one: copies of a single image are seen by this test alone."""
    found = one(**FLAGGED).sentences
    assert found[1] == f"{COMPETITION} found no training image that samples depend on."
    assert found[2] == (
        f"{CONFORMAL} flags 90 samples, at the same rate. They belong to 2 training images, and up to 88 samples share "
        "one."
    )
    assert found[-1] == CLOSEST
    single = one(**FLAGGED | {"flagged": 1, "flagged_images": 1, "most_shared": 1}).sentences[2]
    assert single.endswith("flags 1 sample, at the same rate. It belongs to 1 training image.")


def test_words_where_chance_does_as_much():
    """A find at the rate of one model that does not count in the sweep is told, with its probability and the limit."""
    found = one(14, discoveries=1, competition_p=0.028, flagged=2, conformal_p=0.011).sentences
    limit = "too often to count: the probability is {}, and it must be at most 0.000893 among so many models."
    assert found[1] == f"{COMPETITION} reports 1 training image, which chance alone does {limit.format('0.028')}"
    assert found[2] == f"{CONFORMAL} flags 2 samples, which chance alone does {limit.format('0.011')}"
    assert found[-1].startswith("Copies in fewer than")


def test_samples_that_would_be_enough():
    """With the number given a clean table sees enough, and with a tenth less it does not; few images never see enough."""
    scarce = {"judged_by": 100, "n_pool_train": 6400}
    enough = one(**scarce, samples=50).samples_needed
    assert enough % 32 == 0
    assert one(**scarce, samples=enough, n_competing=enough).unseen <= MOST_UNSEEN
    fewer = 32 * int(enough / 1.1 / 32 - 1)
    assert one(**scarce, samples=fewer, n_competing=fewer).unseen > MOST_UNSEEN
    assert one(judged_by=3, n_pool_train=6400, n_pool_heldout=4, samples=50).samples_needed is None


def test_large_numbers_have_commas():
    """Counts beyond a thousand are printed with commas, and small probabilities with two digits."""
    many = {"samples": 5000, "discoveries": 1500, "alike": 1200, "attached": 1300, "competition_p": 1e-9}
    flags = {"flagged": 2500, "flagged_images": 1100, "most_shared": 1050, "conformal_p": 1e-9}
    rows = [tested.copies(tested.model(64, part), **many, **flags) for part in "ab"]
    assert judge(table(*rows))[64].sentences[:3] == [
        "10,000 samples of 2 models were tested for copies in two ways.",
        "The competition found 3,000 training images that samples depend on (1,500 for n64-s0-a and 1,500 for n64-s0-b), "
        "at a false-discovery rate of 5% for each model. 2,400 of 3,000 correlate with the sample at 0.95 "
        "or more, pixel by pixel. For 2,600 further samples, the nearest image is one of these.",
        "The conformal test flags 5,000 samples, at the same rate. They belong to 2,200 training images, and up to 1,050 "
        "samples share one.",
    ]
    scarce = one(samples=40_000, judged_by=200, n_pool_train=10**6, n_competing=9)
    assert "it takes 3,981 samples for the" in scarce.sentences[-1]
    alone = one(discoveries=1, competition_p=1 / 30).sentences[1]
    assert alone.endswith("the probability is 0.033, and it must be at most 0.0125.")


def test_the_rate_of_one_model_needs_its_number_of_samples():
    """Where the rate q binds, it takes m / (q (n + 1)) samples, n held-out images counted with the sample itself."""
    assert "it takes 100 samples for the" in one(judged_by=39, n_pool_train=6400, n_competing=3).sentences[-1]


def test_the_assumptions_are_said():
    """Each test with what it assumes."""
    assert ASSUMPTIONS == (
        "The competition assumes only that training and held-out images were divided at random. The conformal test "
        "assumes that samples other than copies lie no deeper in the neighborhoods of training images than held-out "
        "images do."
    )
