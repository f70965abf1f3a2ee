"""The compiled kernels, on the CPU and with CUDA, behind the backend seam."""
