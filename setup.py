"""What `pyproject.toml` cannot say: the compiled half of the hot path, which may fail to build.

Without a compiler the package installs all the same and does everything in Python.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "palyra_actors.domain._swift",
            ["palyra_actors/domain/_swift.c"],
            depends=["palyra_actors/domain/_swift_reply.h", "palyra_actors/domain/_swift_utf8.h"],
            extra_compile_args=["-O2"],
            optional=True,
        ),
        Extension(
            "palyra_actors.actors._swift_appends",
            ["palyra_actors/actors/_swift_appends.c"],
            depends=["palyra_actors/domain/_swift_reply.h"],
            extra_compile_args=["-O2"],
            optional=True,
        ),
        Extension(
            "palyra_actors.domain._swift_json",
            ["palyra_actors/domain/_swift_json.c"],
            extra_compile_args=["-O2"],
            optional=True,
        ),
        Extension(
            "palyra_actors.domain._swift_redact",
            ["palyra_actors/domain/_swift_redact.c", "palyra_actors/domain/_swift_text.c"],
            depends=["palyra_actors/domain/_swift_text.h", "palyra_actors/domain/_swift_utf8.h"],
            extra_compile_args=["-O2"],
            optional=True,
        ),
        Extension(
            "palyra_actors.actors._swift_door",
            ["palyra_actors/actors/_swift_door.c", "palyra_actors/actors/_swift_porter.c"],
            depends=["palyra_actors/actors/_swift_door.h"],
            extra_compile_args=["-O2"],
            optional=True,
        ),
        Extension(
            "palyra_actors.storage._swift_store",
            ["palyra_actors/storage/_swift_store.c"],
            extra_compile_args=["-O2", "-pthread"],
            optional=True,
        ),
    ]
)
