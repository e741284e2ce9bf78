"""Random changes of the bytes of a file."""


def mutated_bytes(content, draw):
    """Flip, cut, insert, repeat."""
    content = bytearray(content)
    for _ in range(draw.of((1, 1, 1, 3, 20))):
        place = draw.below(len(content) + 1)
        action = draw.below(5)
        if action == 0 and content:
            content[min(place, len(content) - 1)] = draw.below(256)
        elif action == 1:
            del content[place : place + draw.of((1, 8, 10**6))]
        elif action == 2:
            content[place:place] = draw.bytes(draw.of((1, 7, 200)))
        elif action == 3:
            content[place:place] = draw.of(
                (b"[" * 100_000, b"{" * 3000, b"<a>" * 30_000, b"\xff\xfe", b"\0")
            )
        else:
            content[place:place] = content[draw.below(len(content) + 1) :][:50]
    return bytes(content)
