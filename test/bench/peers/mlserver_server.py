"""MLServer with one model, in one process."""

import json
import os
import sys
import tempfile

folder = tempfile.mkdtemp()
with open(f"{folder}/settings.json", "w") as f:
    json.dump({
        "host": "127.0.0.1", "http_port": os.environ["PORT"], "grpc_port": os.environ["GRPC_PORT"],
        "metrics_endpoint": None, "parallel_workers": 0, "debug": False, "gzip_enabled": False,
        "grpc_max_message_length": 64 << 20,
    }, f)
with open(f"{folder}/model-settings.json", "w") as f:
    json.dump({"name": os.environ["MODEL_NAME"], "implementation": "mlserver_runtime.OnnxModel"}, f)
os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))
os.execv(f"{sys.prefix}/bin/mlserver", ["mlserver", "start", folder])
