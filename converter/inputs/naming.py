"""What names and symbols of inputs hint at: weak evidence, asked only where the graph itself leaves a choice.

One table; its words are those that torch's and TensorFlow's exporters, optimum, PaddlePaddle, diffusers and sherpa give
to inputs. A name never overrules what the graph does with a tensor.
"""

from __future__ import annotations

import re
from enum import StrEnum

__all__ = ["Hint", "hints", "stem"]


class Hint(StrEnum):
    """What a word in a name speaks of."""

    PICTURE = "picture"
    MASK = "mask"
    TYPES = "types"
    POSITIONS = "positions"
    LENGTHS = "lengths"
    STATE = "state"
    CACHE = "cache"
    FACTOR = "factor"
    SPECTRUM = "spectrum"
    BATCH = "batch"
    RATE = "rate"
    TIME = "time"


WORDS: dict[str, Hint] = {
    word: hint
    for hint, words in {
        Hint.PICTURE: "image images img imgs picture pixel pixels photo frame rgb rgba bgr",
        Hint.MASK: "mask masks",
        Hint.TYPES: "type types segment segments",
        Hint.POSITIONS: "position positions pos",
        Hint.LENGTHS: "length lengths len lens",
        Hint.STATE: "state states hidden h0 c0 hx cx mem memory hin cin",
        Hint.CACHE: "cache past kv",
        Hint.FACTOR: "factor factors scale scales ratio",
        Hint.SPECTRUM: "mel mels spec spectrogram spectrum fbank mfcc feats feat cepstra",
        Hint.RATE: "sr fs rate samplerate",
        Hint.TIME: "frames time timesteps",
        Hint.BATCH: "batch batchsize n b bs",
    }.items()
    for word in words.split()
}
DIRECTIONS = {  # words that tell a state that goes in from the one that comes back
    *("input", "output", "in", "out", "i", "o", "new", "next", "prev", "previous", "past", "present", "last"),
    *("initial", "init", "final", "updated", "cur", "current", "value", "values"),
}
WORD = re.compile(r"(?<![A-Za-z])[A-Za-z]{1,2}\d+|[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def words(name: str) -> list[str]:
    """The words of a name in small letters; digits stay with letters before them where those are one or two."""
    return [part.lower() for part in WORD.findall(name)]


def hints(name: str) -> frozenset[Hint]:
    """Everything that the words of a name hint at."""
    return frozenset(WORDS[word] for word in words(name) if word in WORDS)


def stem(name: str) -> str:
    """What is left of a state's name without the words and letters that say whether it goes in or comes back.

    ``h0`` and ``hn`` have the stem h, ``r1i`` and ``r1o`` r1, ``past_key_values.0.key`` and ``present.0.key`` 0.key; it
    is empty where nothing but a number is left.
    """
    kept = [word for word in words(name) if word not in DIRECTIONS]
    if len(kept) > 1:  # state_n, key_values.0.key
        kept = [word for place, word in enumerate(kept) if word not in ("n", "t") and word not in kept[place + 1 :]]
    if len(kept) == 1 and len(kept[0]) <= 3:  # h0 becomes hn
        kept = [re.sub(r"(?<=.)[0nt]$", "", kept[0])]
    return ".".join(kept) if any(not word.isdigit() for word in kept) else ""
