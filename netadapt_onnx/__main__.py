"""`python -m netadapt_onnx` is the command `netadapt-onnx`."""

from netadapt_onnx.cli import main

main()
