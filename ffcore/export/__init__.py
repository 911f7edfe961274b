"""Self-contained students: student files, sources of students, exports."""

from ffcore.export.directory import EXPORT_FILES, export
from ffcore.export.sources import (
    SourceError,
    is_export,
    is_run,
    load_student,
    student_path,
)
from ffcore.export.student_file import (
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
    "EVALUATION",
    "EXPORT_FILES",
    "RECIPE",
    "STUDENT",
    "SourceError",
    "StudentFile",
    "conditions_tree",
    "describe",
    "export",
    "is_export",
    "is_run",
    "load_student",
    "read_student",
    "student_path",
    "write_student",
]
