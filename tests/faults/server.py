"""A process that has everything imported and forks for each command, so that it can be killed at any operation.

One JSON object a line comes in, {"arguments", "root", "number"}; one line goes out: the exit code, negative for a signal.
"""

import json
import os
import sys
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    import cv2
    import torch

    import viscera.cli.evaluate
    import viscera.learning.training  # noqa: F401
    from faults.faulty import faults
    from viscera.cli.command import main

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.chdir(job["folder"])
                os.dup2(os.open(job["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
                os.dup2(1, 2)
                with warnings.catch_warnings(), faults(job["root"], job["number"], kill=True):
                    code = main(job["arguments"])
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
