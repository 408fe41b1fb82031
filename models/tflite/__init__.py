"""Models as ``.tflite`` files, on the package ``flatbuffers``: written, checked, patched, run where a runtime is."""
