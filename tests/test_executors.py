"""Executors: wherever tasks are done, and whatever is killed on the way, the files are the same, byte for byte."""

import contextlib
import functools
import gc
import hashlib
import importlib.util
import os
import pickle
import signal
import socket
import sys
import threading
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import elsewhere
import numpy as np
import program
import pytest
from elsewhere import Task
from program import memgen

import memgen as memgen_library
from memgen.base.errors import ConfigError, DataError, RunError
from memgen.experiment import executors, spread_leaders
from memgen.experiment.executors import Resources, on_ray
from memgen.experiment.executors.slurm import MINUTES, _minutes
from memgen.experiment.runs import Run
from memgen.experiment.spread import write_arrays
from memgen.experiment.workspace import Workspace
from memgen.images.importing import ImportSettings, import_images
from memgen.measures.copies.sight import BLOCK

needs_submitit = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="needs the package submitit")
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the package ray")
# Ray leaves processes that it has started to the garbage collector.
rays_own = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
]
ON_RAY = [needs_ray, pytest.mark.slow, *rays_own]
CLUSTERS = [pytest.param("slurm", marks=[needs_submitit, pytest.mark.slow]), pytest.param("ray", marks=ON_RAY)]
ALL = ["here", "pool", *CLUSTERS]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Processes on a cluster import memgen and the tasks of these tests from here."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))


@pytest.fixture(scope="session")
def cluster():
    """A Ray cluster of two nodes with one CPU each, on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        # On 127.0.0.1, Ray takes more than one node for a mistake unless it is told otherwise before it is imported.
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
        patch.setenv("PYTHONPATH", os.pathsep.join(folders))
        from ray.cluster_utils import Cluster

        with pytest.MonkeyPatch.context() as threads:
            threads.setenv("OMP_NUM_THREADS", "3")  # as a machine may have it
            started = Cluster(initialize_head=True, head_node_args={**node(), "include_dashboard": False})
            started.add_node(**node())
        started.wait_for_nodes()
        yield started
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            address = started.address
            started.shutdown()
            del started
            if on_ray.CURRENT.is_file() and on_ray.CURRENT.read_text().strip() == address:
                on_ray.CURRENT.unlink()  # Ray leaves it there
            gc.collect()


def node():
    return {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def pool():
    """Two worker processes of one thread each, for all tests, since it takes seconds until they have loaded PyTorch."""
    with executors.find("local", Resources(1), 2) as executor:
        yield executor


@pytest.fixture
def find(request, tmp_path):
    """An executor by the name of a test's parameter, with so many tasks at a time."""

    def found(name, jobs=2, threads=1):
        if (name, jobs, threads) == ("pool", 2, 1):
            return contextlib.nullcontext(request.getfixturevalue("pool"))
        if name == "ray":
            address = request.getfixturevalue("cluster").address
            return executors.find("ray", Resources(threads), jobs, address)
        if name == "slurm":
            return executors.find("slurm", Resources(threads), jobs, "local", tmp_path / "jobs")
        return executors.find("local", Resources(threads), 1 if name == "here" else jobs)

    return found


def assert_written(tasks):
    for task in tasks:
        assert task.path.read_bytes() == hashlib.sha256(str(task.number).encode()).digest() * 1000


@pytest.mark.parametrize("name", ALL)
def test_every_task_is_done_once_and_never_again(find, tmp_path, name):
    """A map does all tasks; a second one finds them done and writes nothing. Both tell that each began and finished."""
    tasks = [Task(tmp_path, number) for number in range(5)]
    with find(name) as executor:
        for times in (1, 2):
            news = []
            executor.map(elsewhere.work, tasks, news.append)
            told = Counter((each.task.number, each.state) for each in news if each.state != "under way")
            assert told == {(task.number, state): 1 for task in tasks for state in ("begun", "finished")}
            assert Counter(number for number, *_ in elsewhere.begun(tmp_path)) == dict.fromkeys(range(5), times)
            assert_written(tasks)
            if times == 1:
                before = [task.path.stat().st_mtime_ns for task in tasks]
        assert [task.path.stat().st_mtime_ns for task in tasks] == before
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize("name", ["here", "pool"])
def test_what_work_reports_arrives_in_its_order(find, tmp_path, name):
    """In this process and in the pool, news is told while a task is under way, between its beginning and its end."""
    news = []
    with find(name) as executor:
        executor.map(elsewhere.work, [Task(tmp_path, number) for number in range(3)], news.append)
    for number in range(3):
        mine = [(each.state, each.said) for each in news if each.task.number == number]
        assert mine == [("begun", None), ("under way", f"half of {number}"), ("finished", None)]


@pytest.mark.parametrize("name", ALL)
def test_an_error_arrives_as_it_was_raised_and_stops_the_map(find, tmp_path, name):
    """The error of a task is raised in the driver as it is. What has begun is finished, and no further task begins."""
    tasks = [Task(tmp_path, 0, fails="wrong"), *(Task(tmp_path, number, seconds=1.0) for number in range(1, 9))]
    with find(name, jobs=2) as executor, pytest.raises(DataError, match=r"^task 0 is wrong\.$") as caught:
        executor.map(elsewhere.work, tasks, lambda news: None)
    assert type(caught.value) is DataError
    numbers = {number for number, *_ in elsewhere.begun(tmp_path)}
    assert numbers <= {0, 1, 2}
    assert_written(task for task in tasks[1:] if task.number in numbers)
    assert not any(task.path.exists() for task in tasks[3:])


@pytest.mark.parametrize("name", ["pool", *CLUSTERS])
def test_each_task_has_its_threads(find, tmp_path, name):
    """The number of CPU threads is the one asked for, in whichever process, since results depend on it."""
    asked = 1 if name == "ray" else 2  # each node of the cluster has one CPU
    with find(name, threads=asked) as executor:
        executor.map(elsewhere.work, [Task(tmp_path, number) for number in range(2)], lambda news: None)
    assert [(number, threads) for number, _, _, threads in elsewhere.begun(tmp_path)] == [(0, asked), (1, asked)]
    assert os.getpid() not in {pid for _, pid, _, _ in elsewhere.begun(tmp_path)}


@pytest.mark.parametrize("name", CLUSTERS)
def test_an_interruption_ends_the_tasks_on_a_cluster(find, tmp_path, name):
    """After Ctrl-C, no task writes on without the lock of the run."""

    def interrupt(news):
        if news.task.number == 1:
            elsewhere.wait_for(lambda: elsewhere.begun(tmp_path))
            raise KeyboardInterrupt

    with find(name) as executor:
        with pytest.raises(KeyboardInterrupt):
            executor.map(elsewhere.work, [Task(tmp_path, number, held=True) for number in range(2)], interrupt)
        elsewhere.wait_for(lambda: not any(elsewhere.is_alive(pid) for _, pid, *_ in elsewhere.begun(tmp_path)), 15)


@pytest.mark.parametrize("name", ["pool", *CLUSTERS])
def test_no_more_tasks_at_a_time_than_asked_for(find, tmp_path, name):
    """A cluster is never handed more than so many tasks at a time, and the pool works on no more."""
    under_way = most = 0

    def hear(news):
        nonlocal under_way, most
        under_way += {"begun": 1, "finished": -1}.get(news.state, 0)
        most = max(most, under_way)

    with find(name, jobs=2) as executor:
        executor.map(elsewhere.work, [Task(tmp_path, number, seconds=0.2) for number in range(6)], hear)
    assert (most, under_way) in ((2, 0), *([(1, 0)] if name == "pool" else []))


SBATCH = """#!{python}
import os, pathlib, re, subprocess, sys
script = pathlib.Path(sys.argv[-1])
given = dict(re.findall("#SBATCH --([a-z-]+)=(.*)", script.read_text()))
(pathlib.Path(__file__).parent / "given").write_text(given["array"] + " " + given["cpus-per-task"])
print("Submitted batch job 100", flush=True)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
os.dup2(1, 2)
if not os.fork():  # one job after the other
    for index in range(int(re.match("0-([0-9]+)%", given["array"])[1]) + 1):
        ids = dict(SLURM_JOB_ID=str(100 + index), SLURM_ARRAY_JOB_ID="100", SLURM_ARRAY_TASK_ID=str(index))
        subprocess.run(["bash", script], env=os.environ | ids)
"""
SRUN = """#!{python}
import os, sys
command = sys.argv[sys.argv.index("--error") + 2:]
log = sys.argv[sys.argv.index("--error") + 1].replace("%A_%a", "100_" + os.environ["SLURM_ARRAY_TASK_ID"]).replace("%t", "0")
os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
os.execvp(command[0], command)
"""


@needs_submitit
@pytest.mark.slow
def test_a_job_array_as_slurm_runs_it(monkeypatch, tmp_path):
    """Two programs in place of sbatch and srun run what submitit writes: an array, an error, and a log."""
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN)):
        (tmp_path / "bin" / name).write_text(text.format(python=sys.executable))
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    tasks = [Task(tmp_path, number) for number in range(3)]
    with executors.find("slurm", Resources(threads=2), 2, None, tmp_path / "jobs") as executor:
        executor.map(elsewhere.work, tasks, lambda news: None)
        assert (tmp_path / "bin" / "given").read_text() == "0-2%2 2"
        assert_written(tasks)
        assert not (tmp_path / "jobs").exists()
        tasks = [Task(tmp_path, 3, fails="wrong"), *(Task(tmp_path, number) for number in range(4, 7))]
        with pytest.raises(DataError, match=r"^task 3 is wrong\.$"):
            executor.map(elsewhere.work, tasks, lambda news: None)
        assert {number for number, *_ in elsewhere.begun(tmp_path)} <= {0, 1, 2, 3, 4}  # jobs in the queue do nothing
        with pytest.raises(RunError, match=r"(?s)job 100_1 failed.*ValueError: task 7 is broken") as caught:
            executor.map(elsewhere.work, [Task(tmp_path, 0), Task(tmp_path, 7, fails="broken")], lambda news: None)
    assert "100_1_0_log.err ends with:" in str(caught.value)


@needs_submitit
def test_a_broken_job_of_slurm_shows_the_end_of_its_log(find, tmp_path):
    """An error that is not memgen's own ends the map with the log of the job, which is kept."""
    with find("slurm") as executor, pytest.raises(RunError, match="ValueError: task 1 is broken") as caught:
        executor.map(elsewhere.work, [Task(tmp_path, 0), Task(tmp_path, 1, fails="broken")], lambda news: None)
    (log,) = (path for path in (tmp_path / "jobs").glob("*.err") if str(path) in str(caught.value))
    assert "ValueError: task 1 is broken" in log.read_text()
    assert_written([Task(tmp_path, 0)])


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [
        *[("90", 90), ("90:30", 90), ("2:30:00", 150), ("1-12", 2160), ("1-12:30", 2190), ("0-1:02:03", 62)],
        *[("", MINUTES), ("UNLIMITED", MINUTES)],
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(limit, minutes):
    """All formats of SBATCH_TIMELIMIT; without a number, the default."""
    assert _minutes(limit) == minutes


@pytest.mark.parametrize("package", ["ray", "submitit"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, package):
    """Without the optional package, the message says what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    name = {"submitit": "slurm"}.get(package, package)
    with pytest.raises(
        ConfigError, match=rf"needs the package {package}.*pip install -c constraints.txt '.\[{name}\]'"
    ):
        executors.find(name, folder=tmp_path)


def test_another_process_gets_the_place_of_a_run_and_no_pixels(tiny, monkeypatch):
    """A workspace that has read its images is pickled as a path and a device, and opens elsewhere with its settings."""
    workspace = Workspace.of(Run(Path("outputs/tiny")), "cpu")
    assert len(workspace.images) > 0
    kept = pickle.dumps(workspace)
    assert len(kept) < 1000
    monkeypatch.chdir("/")
    again = pickle.loads(kept)
    assert again.settings == workspace.settings
    assert again.images.ids == workspace.images.ids


def test_executors_that_cannot_be(config, tmp_path):
    """Options that contradict each other end with a message, not with a run."""
    sweep = functools.partial(memgen, "sweep", "--config", config, "--outputs", tmp_path)
    assert sweep("--executor", "lsf").code == 2
    assert not list(tmp_path.glob("*/run.json"))
    sweep("--address", "auto").failed(2, "--address auto", "--executor")
    sweep("--executor", "ray", "--device", "cuda:1").failed(2, "expected cpu or cuda")


def test_a_cluster_of_ray_that_does_not_answer(monkeypatch, tmp_path):
    """A dead address is refused at once, wherever it comes from: Ray would try for a quarter of an hour."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert on_ray.answering(address) == address
    monkeypatch.setattr(on_ray, "CURRENT", tmp_path / "ray_current_cluster")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for none in (None, "auto", "ray://127.0.0.1:1"):
        assert on_ray.answering(none) == none
    monkeypatch.setattr(on_ray.optional, "package", lambda *_: SimpleNamespace(is_initialized=lambda: False))
    with pytest.raises(ConfigError, match=f"no cluster of Ray answers at {address} .*ray status"):
        on_ray.Ray(Resources(), None, address)
    (tmp_path / "ray_current_cluster").write_text(address)
    with pytest.raises(ConfigError, match=f"answers at {address} .*ray_current_cluster names it.*ray stop"):
        on_ray.answering("auto")
    assert on_ray.answering(None) == "local"  # a cluster that was killed is none
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"answers at {address} .*ray status"):
        on_ray.answering(None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pool", *CLUSTERS])
def test_a_sweep_has_the_same_bytes_wherever_it_is_done(request, config, finished, tmp_path, name):
    """All artifacts of a sweep but wall times are those of a sweep in one process; doing it again changes none."""
    given = {"pool": ("--executor", "local"), "slurm": ("--executor", "slurm", "--address", "local")}.get(name)
    if name == "ray":
        given = ("--executor", "ray", "--address", request.getfixturevalue("cluster").address)
    sweep = ("sweep", "--config", config, "--outputs", tmp_path, "--run", "tiny", "--jobs", "2", *given)
    said = memgen(*sweep).done().err
    assert "4 networks to train" in said
    for line in ("n1-s0-a done (", "n4-s0-b done (", "n1-s0 done (", "n4-s0 done (", "done (6 of 6)"):
        assert said.count(line) == 1, said
    assert ("n4-s0-b training" in said) == (name == "pool")  # a cluster tells no more than that a task is finished
    program.assert_same_runs(tmp_path / "tiny", finished)
    before = {path: path.stat().st_mtime_ns for path in program.artifacts(tmp_path / "tiny").values()}
    memgen(*sweep).done()
    assert {path: path.stat().st_mtime_ns for path in program.artifacts(tmp_path / "tiny").values()} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pool", *CLUSTERS])
def test_an_audit_has_the_same_bytes_wherever_it_searches(find, tmp_path, monkeypatch, name):
    """Every table and image of an audit is that of an audit in one process with one thread."""
    monkeypatch.setattr("memgen.experiment.spread._ROWS", BLOCK)  # some tasks for each space
    for sizes, value in (("_ROUND", 200), ("_ROWS", 150), ("_ROUNDS", 2)):  # some rounds of near-duplicates
        monkeypatch.setattr(f"memgen.experiment.spread_leaders.{sizes}", value)
    compared = []
    monkeypatch.setattr(spread_leaders, "write_arrays", lambda *given: compared.append(given) or write_arrays(*given))
    drawn = import_images(None, ImportSettings(resize=8, limit=2000, deduplicate=False)).images.pixels
    sets = {"train": drawn[:400], "held": drawn[400:800], "samples": drawn[800:]}
    sets["samples"][:50] = sets["train"][:50, :, :, ::-1]
    for kind, pixels in sets.items():
        np.save(tmp_path / f"{kind}.npy", pixels)
    given = [tmp_path / f"{kind}.npy" for kind in ("samples", "train", "held")]
    with executors.threads(1):
        here = memgen_library.audit(*given, outputs=tmp_path / "here", name="audit")
        with find(name) as executor:
            there = memgen_library.audit(*given, outputs=tmp_path / "there", name="audit", executor=executor)
    assert here.answer.answer == "found"
    assert there.document["files"] == here.document["files"]
    assert len(compared) >= 4  # a round each, and its tasks if they are done in this process
    assert not (there.path / "searches").exists()


class TestRay:
    """What a cluster of Ray does besides."""

    pytestmark = ON_RAY

    def test_its_own_bound_is_four_tasks_for_each_cpu(self, find, cluster, tmp_path):
        """Without a number of tasks, Ray holds four for each CPU of the cluster, however many there are to do."""
        under_way = most = 0

        def hear(news):
            nonlocal under_way, most
            under_way += {"begun": 1, "finished": -1}[news.state]
            most = max(most, under_way)

        with find("ray", jobs=None) as executor:
            executor.map(elsewhere.work, [Task(tmp_path, number) for number in range(20)], hear)
        assert (most, under_way) == (8, 0)

    def test_a_killed_process_loses_nothing(self, find, tmp_path):
        """A worker that is killed in the middle of a task: Ray does the task again, and the files are the same."""
        tasks = [Task(tmp_path, number, held=number == 0) for number in range(4)]
        lost = []

        def kill():
            elsewhere.wait_for(lambda: elsewhere.begun(tmp_path)[:1] and elsewhere.begun(tmp_path)[0][0] == 0)
            lost.append(elsewhere.begun(tmp_path)[0][1])
            os.kill(lost[0], signal.SIGKILL)
            (tmp_path / "go").touch()

        during(kill, lambda: map_all(find, tasks))
        assert_written(tasks)
        pids = [pid for number, pid, _, _ in elsewhere.begun(tmp_path) if number == 0]
        assert len(set(pids)) == 2
        assert lost[0] in pids

    def test_a_node_that_leaves_loses_nothing(self, find, cluster, tmp_path):
        """A node that is removed in the middle of a task: the task is done on another one."""
        tasks = [Task(tmp_path, number, held=True) for number in range(3)]
        third = cluster.add_node(**node())
        cluster.wait_for_nodes()

        def remove():
            elsewhere.wait_for(lambda: len({node for _, _, node, _ in elsewhere.begun(tmp_path)}) == 3)
            cluster.remove_node(third, allow_graceful=False)
            (pid,) = (pid for _, pid, place, _ in elsewhere.begun(tmp_path) if place == third.node_id)
            elsewhere.wait_for(lambda: not elsewhere.is_alive(pid))
            (tmp_path / "go").touch()

        during(remove, lambda: map_all(find, tasks))
        assert_written(tasks)
        times = Counter(number for number, *_ in elsewhere.begun(tmp_path))
        assert sorted(times.values()) == [1, 1, 2]
        (again,) = (number for number, count in times.items() if count == 2)
        places = [place for number, _, place, _ in elsewhere.begun(tmp_path) if number == again]
        assert third.node_id in places
        assert len(set(places)) == 2

    def test_a_task_lost_too_often_ends_the_map(self, find, tmp_path):
        """A task whose process is killed each time ends with a message instead of being done for ever."""
        killed = set()

        def kill():
            while len(killed) < 4:
                for _, pid, _, _ in elsewhere.begun(tmp_path):
                    if pid not in killed:
                        killed.add(pid)
                        os.kill(pid, signal.SIGKILL)

        with pytest.raises(RunError, match="lost the process or the machine of a task 4 times"):
            during(kill, lambda: map_all(find, [Task(tmp_path, 0, held=True)]))

    def test_memory_is_reserved(self, cluster, tmp_path):
        """Ray sets aside as much memory for a task as it is said to need."""
        with executors.find("ray", Resources(memory_bytes=3 * 2**20), None, cluster.address) as executor:
            executor.map(elsewhere.note_memory, [Task(tmp_path, 0)], lambda news: None)
        assert float((tmp_path / "0.bin").read_text()) == 3 * 2**20

    def test_ray_that_was_there_before_stays(self, find, cluster):
        """An executor shuts Ray down only if it has started or joined it itself."""
        import ray

        with find("ray"):
            assert ray.is_initialized()
        assert not ray.is_initialized()
        ray.init(address=cluster.address, log_to_driver=False)
        with find("ray"):
            pass
        assert ray.is_initialized()
        ray.shutdown()


def map_all(find, tasks):
    with find("ray", jobs=None) as executor:
        executor.map(elsewhere.work, tasks, lambda news: None)


def during(disturb, work):
    """Do the work while a thread disturbs it, which must come to its end."""
    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        work()
    finally:
        disturber.join(timeout=90)
    assert not disturber.is_alive()
