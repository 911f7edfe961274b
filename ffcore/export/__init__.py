"""Self-contained students: student files, sources of students, exports."""

from ffcore.export.directory import EXPORT_FILES, export
from ffcore.export.sources import (
    CHECKPOINTS,
    Opened,
    SourceError,
    is_checkpoint,
    is_export,
    is_run,
    load_student,
    open_student,
    source_folder,
    start_from,
    student_path,
)
from ffcore.export.student_file import (
    DESCRIPTION,
    EVALUATION,
    RECIPE,
    STUDENT,
    StudentFile,
    conditions_tree,
    describe,
    read_student,
    write_student,
)

__all__ = [
    "CHECKPOINTS",
    "DESCRIPTION",
    "EVALUATION",
    "EXPORT_FILES",
    "RECIPE",
    "STUDENT",
    "Opened",
    "SourceError",
    "StudentFile",
    "conditions_tree",
    "describe",
    "export",
    "is_checkpoint",
    "is_export",
    "is_run",
    "load_student",
    "open_student",
    "read_student",
    "source_folder",
    "start_from",
    "student_path",
    "write_student",
]
