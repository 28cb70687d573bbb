"""Damaged text made plain; the expected texts are those of ftfy 6.3.1, the library that the published tokenizer uses."""

import pytest

from refseg.encoders.tokenizers.text_repair import repair


@pytest.mark.parametrize(
    ("damaged", "plain"),
    [
        ("kid\u2019s \u201cblue\u201d cap\u2026", 'kid\'s "blue" cap\u2026'),
        ("b\u00e2\u20ac\u2122s chair", "b's chair"),
        ("ros\u00c3\u00a9 table", "ros\u00e9 table"),
        ("a \u00f0\u0178\u02dc\u20ac face", "a \U0001f600 face"),
        ("pot&amp;pan &eacute; &#233; &NTILDE;", "pot&pan \u00e9 \u00e9 \u00d1"),
        ("a &lt;b&gt; &amp;amp; c", "a <b> & c"),
        ("&amp; <b>", "&amp; <b>"),
        ("&nosuch; &amp x", "&nosuch; &amp x"),
        ("\ufb01ne \ufb02ower", "fine flower"),
        ("\uff2c\uff2f\uff35\uff24\u3000\uff11", "LOUD 1"),
        ("tab\x07le", "table"),
        ("\ufeffbom", "bom"),
        ("e\u0301", "\u00e9"),
        ("ROS\u00c9\u201d sign", 'ROS\u00c9" sign'),
        ("\u00e0 la carte, na\u00efve \u2014 \u00bd", "\u00e0 la carte, na\u00efve \u2014 \u00bd"),
    ],
)
def test_text_becomes_what_ftfy_makes_of_it(damaged, plain):
    assert repair(damaged) == plain
