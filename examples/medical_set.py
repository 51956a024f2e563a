"""Make a small synthetic medical set to audit: python examples/medical_set.py [scans].

The scans are drawn: a body with two lungs and a heart, whose places and sizes belong to the patient. Each of 120
patients has two visits with two slices each, as DICOM files. Patients are divided at random into those that a model was
trained on and those that it never saw. The "generated" set stands for what the model draws: 120 pictures of new
patients, and 30 that are mirrored scans of 30 training patients, with a little noise. The table patients.csv says which
file is of whom.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

SIDE, PATIENTS, NEW, LEAKED = 20, 120, 120, 30
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def anatomy(draws: np.random.Generator) -> Pixels:
    """The ellipses of a patient, (4, 5): row, column, height, width and brightness of body, lungs and heart."""
    usual = np.array([[0, 0, 0.85, 0.7, 0.55], [0, -0.33, 0.5, 0.22, -0.4], [0, 0.33, 0.5, 0.22, -0.4],
                      [0.15, 0.05, 0.25, 0.18, 0.3]])  # fmt: skip
    return usual + draws.normal(size=usual.shape) * [0.1, 0.07, 0.09, 0.06, 0.08]


def scan(patient: Pixels, draws: np.random.Generator) -> Pixels:
    """One slice of a patient, (SIDE, SIDE) in [0, 1]: the anatomy a little deeper or higher, with noise."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    image = np.full((SIDE, SIDE), 0.05)
    for row, column, height, width, brightness in patient + draws.normal(size=patient.shape) * 0.015:
        distance = np.hypot((y - row) / height, (x - column) / width)
        image += brightness / (1 + np.exp(np.minimum(12 * (distance - 1), 50)))
    return np.clip(image + draws.normal(scale=0.01, size=image.shape), 0, 1)


def write_dicom(path: Path, image: Pixels, patient: str, series: str) -> None:
    """A slice as a DICOM file of 12 bits, with the window that shows all of it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.PatientID, file.Modality = patient, "OT"
    file.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[series])
    file.Rows, file.Columns, file.SamplesPerPixel, file.PhotometricInterpretation = SIDE, SIDE, 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.WindowCenter, file.WindowWidth = 2048, 4096
    file.PixelData = np.round(4095 * image).astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def main() -> None:
    """Write the three sets and the table."""
    out, draws = Path(sys.argv[1] if len(sys.argv) > 1 else "scans"), np.random.default_rng(0)
    rows, trained = [], []
    for number, side in enumerate(draws.permutation(PATIENTS) < PATIENTS // 2):
        name, patient = f"patient-{number:03}", anatomy(draws)
        for visit in range(2):
            for level in range(2):
                image, file = scan(patient, draws), f"{name}/visit-{visit}/{level}.dcm"
                write_dicom(out / ("train" if side else "held-out") / file, image, name, f"{name}/{visit}")
                rows.append((file, name))
                trained += [image] if side and visit == level == 0 else []
    made = [scan(anatomy(draws), draws) for _ in range(NEW)]
    made += [np.clip(image[:, ::-1] + draws.normal(scale=0.02, size=image.shape), 0, 1) for image in trained[:LEAKED]]
    (out / "generated").mkdir(parents=True, exist_ok=True)
    for number, which in enumerate(draws.permutation(len(made))):
        Image.fromarray(np.round(255 * made[which]).astype(np.uint8)).save(out / "generated" / f"{number:03}.png")
    with open(out / "patients.csv", "w", newline="") as table:
        csv.writer(table).writerows([("file", "group"), *rows])
    print(f"{out}: {len(rows)} scans of {PATIENTS} patients, and {len(made)} generated images")


if __name__ == "__main__":
    main()
