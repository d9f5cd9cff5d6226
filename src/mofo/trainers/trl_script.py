"""The script that `mofo sft` launches. Ctrl-C ends it without a traceback, during its slow imports as well."""

import sys

from mofo.errors import UserError

if __name__ == "__main__":
    try:
        from mofo.trainers.trl_training import train

        train(sys.argv[1:])
    except UserError as error:
        print(f"mofo sft: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # `mofo sft` says how to resume
        sys.exit(130)
