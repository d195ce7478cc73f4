"""Tables in text files: what is read, what is refused by name, and what is written again."""

from pathlib import Path

import numpy as np
import pytest

from sdescore.data import load, read_table, table
from sdescore.data.table import write_table

GOOD = "age,height,kind\n30, 1.8,cat\n41,1.65,dog\n\n25,1.7,cat\n"


def written(folder: Path, text: str, name: str = "people.csv") -> str:
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


def test_columns_by_name_and_a_label_column(tmp_path: Path) -> None:
    source = table(written(tmp_path, GOOD), "kind")
    raw, labels = source.__getitems__([0, 1, 2])
    assert raw.tolist() == [[30, 1.8], [41, 1.65], [25, 1.7]]
    assert source.scaling.names == ("age", "height") and not source.scaling.bounded
    assert labels is not None and labels.tolist() == [0, 1, 0]
    assert source.classes == 2 and getattr(source, "class_names", None) == ["cat", "dog"]


def test_separators_quotes_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufeff"the age";"a; b"\n1;2\n"3";4\n'
    source = load(written(tmp_path, text))
    assert source.scaling.names == ("the age", "a; b")
    assert source.__getitems__([0, 1])[0].tolist() == [[1, 2], [3, 4]]
    assert load(written(tmp_path, "a\tb\n1\t2\n3\t5\n", "x.tsv")).shape == (2,)


def test_a_column_may_be_known_of_each_row_instead(tmp_path: Path) -> None:
    source = load(written(tmp_path, "a,b,c\n1,2,3\n4,5,7\n"), conditions=["b"])
    assert source.shape == (2,)
    assert source.conditions([1])["b"].tolist() == [[5]]  # type: ignore[attr-defined]


def test_the_scaling_of_a_model_chooses_the_columns(tmp_path: Path) -> None:
    scaling = table(written(tmp_path, "a,b\n1,2\n3,5\n")).scaling
    other = table(written(tmp_path, "kind,b,a\nx,20,10\n", "other.csv"), scaling=scaling)
    assert other.__getitems__([0])[0].tolist() == [[10, 20]] and other.scaling == scaling
    with pytest.raises(ValueError, match=r"c\.csv has no column 'b'; expected one of 'a', 'c'"):
        table(written(tmp_path, "a,c\n1,2\n", "c.csv"), scaling=scaling)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("age,height\n3,4\n5,\n", r"column 'height' has no value in row 1, line 3; expected numbers"),
        ("age,height\n\n3,4\nNaN,4\n", r"column 'age' has no value in row 1, line 4; expected numbers"),
        ("age,kind\n3,cat\n5,dog\n", r"column 'kind' has 'cat' in row 0, line 2; expected numbers"),
        ("a,b,c\nx,y,1\n", r"column 'a' has 'x' in row 0, line 2; column 'b' has 'y' in row 0"),
        ("age,h\n3,inf\n", r"column 'h' has 'inf' in row 0"),
        ("1,2\n3,4\n", r"begins with numbers, 1, 2 …; expected the columns' names"),
        (",a\n0,1\n", r"column 0 has no name"),
        ("a,a\n0,1\n", r"column 1 has the name 'a' again"),
        ("a,b\n0,1\n2\n", r"line 3, has 1 cells; expected 2"),
        ("a,b\n", r"has 1 lines"),
        ("a,b\n1,2\n1,3\n", r"people\.csv: column 'a' is 1 everywhere"),
        ('a,b\n"1,2\n', r"people\.csv, line 2: "),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load(written(tmp_path, text))


def test_labels_without_a_value_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"column 'kind' has no value in row 1, line 3; expected labels"):
        table(written(tmp_path, "a,kind\n1,x\n2,\n"), "kind")
    with pytest.raises(ValueError, match="no column 'sort'; expected one of 'a', 'kind'"):
        table(written(tmp_path, "a,kind\n1,x\n2,y\n"), "sort")
    (tmp_path / "b.csv").write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"b\.csv is no text"):
        load(str(tmp_path / "b.csv"))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((50, 2)) * [1.0, 1e-3] + [1e9, 0.0]
    text = write_table({"large, of small spread": x[:, 0], "b": x[:, 1], "kind": ["cat"] * 50})
    columns = read_table(written(tmp_path, text))
    assert list(columns) == ["large, of small spread", "b", "kind"]
    source = table(tmp_path / "people.csv", "kind")
    back = source.__getitems__(range(50))[0].numpy()
    assert (np.abs(back - x) < 1e-6 * x.std(0)).all()


def test_npz_files_may_name_their_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.rand(5, 2), columns=["a", "b"])
    source = load(str(tmp_path / "x.npz"))
    assert source.scaling.names == ("a", "b")
    np.savez(tmp_path / "y.npz", x=np.random.rand(5, 2), columns=["b", "a"])
    with pytest.raises(ValueError, match=r"columns are \['b', 'a'\]; expected \['a', 'b'\]"):
        load(str(tmp_path / "y.npz"), scaling=source.scaling)
