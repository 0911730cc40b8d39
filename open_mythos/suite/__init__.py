"""The depth suite: task x design x seed, each trained, mapped by difficulty and loops, judged."""
