"""Every claim of speed or memory is a command here that prints the ratio it claims."""

import argparse
from collections.abc import Callable, Mapping


def run_named(benchmarks: Mapping[str, Callable[[], None]], described: str | None) -> None:
    """Run the benchmarks that the command line names, or all."""
    parser = argparse.ArgumentParser(description=described, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(benchmarks)}; without any, all")
    names = parser.parse_args().names
    if unknown := set(names) - benchmarks.keys():
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}: take some of {', '.join(benchmarks)}")
    for name in names or benchmarks:
        benchmarks[name]()
