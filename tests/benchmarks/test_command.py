from benchmarks.command import parser_of, write_figures


def test_help_is_the_modules_words_as_they_stand():
    words = "What it measures.\n\n    python -m benchmarks.some --json FILE\n\nMore."
    text = parser_of(words, "benchmarks.some").format_help()
    assert words in text
    assert text.startswith("usage: python -m benchmarks.some")


def test_figures_are_written_where_a_file_is_named(tmp_path, read_json):
    write_figures(None, {"dsc": 0.9})
    assert not list(tmp_path.iterdir())
    write_figures(tmp_path / "figures.json", {"dsc": 0.9})
    assert read_json(tmp_path / "figures.json") == {"dsc": 0.9}
