"""The light core of lls: reads scans, prepares them, runs a network, cleans, measures and writes labels.

Importing it loads none of numba, onnxruntime, torch or tensorflow; what needs one of them loads it.
"""
