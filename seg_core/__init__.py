"""The light core of lls: reads scans, prepares them, runs a network, cleans, measures and writes labels.

Importing it loads none of numba, onnxruntime, torch or tensorflow; each is loaded by the function that needs it.
"""
