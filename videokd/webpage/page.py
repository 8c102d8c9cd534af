"""The page itself: what stands where, and what asks the desk. Gradio draws it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from videokd.errors import ConfigError
from videokd.webpage import markup
from videokd.webpage.desk import ClipDesk

#: Clips that wait for their turn; further ones are refused.
MOST_WAITING = 20
_FONTS = ("system-ui", "sans-serif")
_MONOSPACE = ("ui-monospace", "monospace")


def gradio_module(uploads: Path) -> Any:
    """Gradio, told before it is imported to send nothing to anybody and where uploads go.

    Args:
        uploads: the folder for them.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(f"`videokd app` needs Gradio ({error}). Run `pip install 'videokd[app]'`.") from error
    return gradio


def build_page(gradio: Any, desk: ClipDesk) -> Any:
    """The page, as Gradio's Blocks.

    Args:
        gradio: from `gradio_module`.
        desk: who answers.
    """
    page = gradio.Blocks(title="videokd", analytics_enabled=False, delete_cache=(600, 3600))
    with page:
        gradio.HTML(markup.heading(desk.sets, desk.limits))
        with gradio.Row(equal_height=True):
            upload = gradio.File(label="A clip: any video file", file_count="single", height=140, elem_id="upload")
            if desk.folder is not None:
                chooser = gradio.Dropdown(
                    desk.choices, value=None, label=f"Or choose one of {len(desk.choices)} videos", elem_id="chooser"
                )
        shown = gradio.HTML(elem_id="answer", min_height=60)

        def on_upload(given: Any, progress: Any = gradio.Progress()) -> tuple[str, None]:  # noqa: B008
            path = given.get("path") if isinstance(given, dict) else None
            return desk.uploaded(path, lambda share, text: progress(share, desc=text)), None

        def on_choice(key: object, progress: Any = gradio.Progress()) -> str:  # noqa: B008
            return desk.chosen(key, lambda share, text: progress(share, desc=text))

        one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "desk", "api_visibility": "private"}
        # Not preprocessed: Gradio would leave an empty file beside each upload, and print a traceback for a key that is none.
        # The desk checks both
        upload.upload(
            on_upload,
            inputs=[upload],
            outputs=[shown, upload],
            show_progress_on=[shown],
            preprocess=False,
            **one_at_a_time,
        )
        if desk.folder is not None:
            chooser.select(on_choice, inputs=[chooser], outputs=[shown], preprocess=False, **one_at_a_time)
    page.queue(api_open=False, max_size=MOST_WAITING, default_concurrency_limit=1)
    return page


def theme_of(gradio: Any) -> Any:
    """A theme without fonts from elsewhere.

    Args:
        gradio: from `gradio_module`.
    """
    return gradio.themes.Default(font=_FONTS, font_mono=_MONOSPACE)
