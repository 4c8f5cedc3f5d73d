"""Where the `interp` command begins: imports take half a second, in which Ctrl-C is heard too."""

from __future__ import annotations

import sys

from interp_assets.ctrl_c import ending_at_once, stopped


def main() -> int:
    try:
        with ending_at_once():
            from interp_assets import cli
        return cli.main()
    except KeyboardInterrupt:
        return stopped()


if __name__ == "__main__":
    sys.exit(main())
