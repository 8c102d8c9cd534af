"""Names of the files that an export can have; no PyTorch is needed to look for them."""

from __future__ import annotations

#: The students' weights, and everything else about them.
WEIGHTS_FILE = "students.safetensors"
DESCRIPTION_FILE = "students.json"
#: Graphs for ONNX Runtime, in 32 and in 8 bits.
ONNX_FILE = "students.onnx"
INT8_FILE = "students.int8.onnx"
#: A program of torch.export.
PROGRAM_FILE = "students.pt2"
