from memgen.base.errors import MemgenError as MemgenError
from memgen.experiment.audit import audit as audit
from memgen.experiment.monitor import Monitor as Monitor
from memgen.experiment.present import Findings as Findings
from memgen.experiment.settings import RunSettings as RunSettings
from memgen.experiment.whole import read_run as read_run
from memgen.experiment.whole import sweep as sweep
from memgen.experiment.workspace import Workspace as Workspace
from memgen.images.imageset import ImageSet as ImageSet
from memgen.images.importing import read_images as read_images
from memgen.images.split import Split as Split
from memgen.measures.copies.examiner import find_copies as find_copies
from memgen.measures.psnr import PsnrSettings as PsnrSettings
from memgen.measures.psnr import measure_psnr as measure_psnr
from memgen.measures.subject import Subject as Subject
from memgen.measures.subject import subject as subject
from memgen.models.denoiser import Denoiser as Denoiser
from memgen.models.denoiser import FunctionDenoiser as FunctionDenoiser
from memgen.models.foreign.diffusers_folder import DiffusersDenoiser as DiffusersDenoiser
from memgen.models.loading import load_denoiser as load_denoiser
from memgen.models.sampling import SampleSettings as SampleSettings
from memgen.spaces.index import Index as Index

__all__: list[str]
__version__: str
