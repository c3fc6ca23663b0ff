"""Triton as nvidia-pytriton's wheel brings it: its server, with the Python backend, which is the only one in it."""

import os
import shutil
import sys
import sysconfig
import tempfile

name = os.environ["MODEL_NAME"]
kind, shape, answer, rows = {
    "trees": ("FP32", [30], [1], 1024),
    "vision": ("FP32", [3, 224, 224], [1000], 8),
    "encoder": ("INT64", [32], [384], 32),
    "large": ("FP32", [2048], [2048], 32),
}[name]
here = os.path.dirname(os.path.abspath(__file__))
packages = sysconfig.get_path("purelib")
triton = f"{packages}/pytriton/tritonserver"
folder = tempfile.mkdtemp()
os.makedirs(f"{folder}/models/{name}/1")
shutil.copy(f"{here}/triton_model.py", f"{folder}/models/{name}/1/model.py")
shutil.copy(f"{here}/session.py", f"{folder}/models/{name}/1/")
with open(f"{folder}/models/{name}/config.pbtxt", "w") as f:
    f.write(f"""
backend: "python"
max_batch_size: {rows}
input [{{ name: "X" data_type: TYPE_{kind} dims: {shape} }}]
output [{{ name: "Y" data_type: TYPE_FP32 dims: {answer} }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
dynamic_batching {{ }}
""")
# The backend looks for the stub of the Python version beside itself.
shutil.copytree(f"{triton}/backends", f"{folder}/backends", symlinks=True)
version = f"{sys.version_info.major}.{sys.version_info.minor}"
shutil.copy(f"{triton}/python_backend_stubs/{version}/triton_python_backend_stub", f"{folder}/backends/python/")
# It finds its modules by the python3 that comes first.
os.environ["PATH"] = f"{sys.prefix}/bin:{os.environ['PATH']}"
os.environ["LD_LIBRARY_PATH"] = f"{packages}/nvidia_pytriton.libs:{sysconfig.get_config_var('LIBDIR')}"
os.execv(f"{triton}/bin/tritonserver", [
    "tritonserver", "--model-repository", f"{folder}/models", "--backend-directory", f"{folder}/backends",
    "--http-address", "127.0.0.1", "--http-port", os.environ["PORT"], "--grpc-address", "127.0.0.1",
    "--grpc-port", os.environ["GRPC_PORT"], "--allow-metrics", "false", "--log-verbose", "0", "--log-info", "false",
])
