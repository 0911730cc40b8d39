"""Named networks, mythos_nano ... mythos_1t. The code lives in open_mythos.config.presets."""

from open_mythos.config.presets import (
    mythos_1b as mythos_1b,
    mythos_1t as mythos_1t,
    mythos_3b as mythos_3b,
    mythos_10b as mythos_10b,
    mythos_50b as mythos_50b,
    mythos_100b as mythos_100b,
    mythos_500b as mythos_500b,
    mythos_mini as mythos_mini,
    mythos_nano as mythos_nano,
    mythos_small as mythos_small,
)
