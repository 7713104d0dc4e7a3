"""``python -m docs.reference``, in the project's folder: writes everything that is generated."""

from docs.reference.pages import ROOT, generated

for path, text in generated().items():
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")
        print(f"{path.relative_to(ROOT)}: written")
