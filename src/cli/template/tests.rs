use super::*;
use serde_json::json;

fn data() -> Value {
    let config = json!({
        "Env": ["PATH=/bin", "A=b c"],
        "Labels": {"b": "2", "a": "1"},
        "Cmd": ["sh", "-c", "true"],
    });
    let zeros = [
        ("Entrypoint", Value::Unset(Kind::List)),
        ("Healthcheck", Value::Unset(Kind::Object)),
        ("User", Value::text("")),
    ];
    let config = Value::object_of(config.as_object().unwrap(), &zeros, |_, v| Value::of_json(v));
    let descriptor = json!({"mediaType": "m", "size": 7});
    let descriptor =
        Value::object_of(descriptor.as_object().unwrap(), &[], |_, v| Value::of_json(v));
    Value::row([
        ("Id", Value::text("sha256:0123")),
        ("RepoTags", Value::of_json(&json!(["app:1", "app:2"]))),
        ("Size", Value::Int(42)),
        ("Ratio", Value::Float(0.5)),
        ("Config", config),
        ("Descriptor", descriptor),
    ])
}

fn render(template: &str) -> Result<String, String> {
    Template::parse(template, Escapes::Kept)
        .and_then(|template| template.render(&data()))
        .map_err(|error| error.message)
}

/// What Go 1.22 with docker's functions prints for them.
const CASES: &[(&str, &str)] = &[
    ("plain", "plain"),
    ("{{.Id}}", "sha256:0123"),
    ("{{ .Id }}\n{{.Size}}", "sha256:0123\n42"),
    ("{{$.Id}}", "sha256:0123"),
    ("{{json .RepoTags}}", "[\"app:1\",\"app:2\"]"),
    ("{{json .Config.Labels}}", "{\"a\":\"1\",\"b\":\"2\"}"),
    ("{{json .Config.Entrypoint}}", "null"),
    ("{{.Config.Entrypoint}}|{{.Config.Healthcheck}}|{{.Config.User}}", "[]|<nil>|"),
    ("{{.Config.Env}}", "[PATH=/bin A=b c]"),
    ("{{.Config.Labels}}", "map[a:1 b:2]"),
    ("{{.Config.Labels.a}}{{.Config.Labels.nope}}", "1<no value>"),
    ("{{index .Config.Labels \"b\"}}{{index .Config.Labels \"nope\"}}.", "2."),
    ("{{index .RepoTags 0}} {{ index .RepoTags 1 }}", "app:1 app:2"),
    ("{{len .RepoTags}}{{len .Id}}{{len .Config.Entrypoint}}", "2110"),
    ("{{join .RepoTags \", \"}}", "app:1, app:2"),
    ("{{join .Config.Entrypoint \",\"}}", ""),
    ("{{range .RepoTags}}<{{.}}>{{end}}", "<app:1><app:2>"),
    ("{{range $i, $tag := .RepoTags}}{{$i}}={{$tag}};{{end}}", "0=app:1;1=app:2;"),
    ("{{range $key, $value := .Config.Labels}}{{$key}}:{{$value}} {{end}}", "a:1 b:2 "),
    ("{{range .Config.Entrypoint}}x{{else}}none{{end}}", "none"),
    ("{{range 3}}{{.}}{{end}}", "012"),
    ("{{range .RepoTags}}{{if eq . \"app:2\"}}{{break}}{{end}}{{.}}{{end}}", "app:1"),
    ("{{range .RepoTags}}{{if eq . \"app:1\"}}{{continue}}{{end}}{{.}}{{end}}", "app:2"),
    ("{{if .Config.User}}u{{else}}no user{{end}}", "no user"),
    ("{{if gt .Size 50}}big{{else if gt .Size 40}}middle{{else}}small{{end}}", "middle"),
    ("{{with .Config.Healthcheck}}{{.Test}}{{else}}none{{end}}", "none"),
    ("{{with .Config.User}}u{{else with .Id}}{{.}}{{end}}", "sha256:0123"),
    ("{{with $c := .Config}}{{$c.Cmd}}{{end}}", "[sh -c true]"),
    ("{{$x := .Id}}{{$x}}", "sha256:0123"),
    ("{{$n := 0}}{{range .RepoTags}}{{$n = .}}{{end}}{{$n}}", "app:2"),
    ("{{.Id | upper | printf \"%s!\"}}", "SHA256:0123!"),
    ("{{upper .Id}}{{lower \"AB\"}}{{title \"two words\"}}", "SHA256:0123abTwo Words"),
    ("{{(index .RepoTags 1) | len}}", "5"),
    ("{{(split .Id \":\") | json}}", "[\"sha256\",\"0123\"]"),
    ("{{index (split .Id \":\") 1}}", "0123"),
    ("{{truncate .Id 6}}{{pad \"x\" 1 2}}|", "sha256 x  |"),
    ("{{slice .Id 7}} {{slice .Id 0 3}} {{slice .RepoTags 1}}", "0123 sha [app:2]"),
    (
        "{{printf \"%q %5d|%-4s|%.2s|%05d|%x|%v|%t\" .Id .Size \"a\" \"abc\" 7 255 .Config.Env true}}",
        "\"sha256:0123\"    42|a   |ab|00007|ff|[PATH=/bin A=b c]|true",
    ),
    ("{{printf \"%d %s %%\" \"x\"}}", "%!d(string=x) %!s(MISSING) %"),
    ("{{printf \"%s\" 1 2}}", "%!s(int=1)%!(EXTRA int=2)"),
    ("{{printf \"%.1f %v %g %e\" .Ratio .Ratio 1e30 1234.5}}", "0.5 0.5 1e+30 1.234500e+03"),
    ("{{print 1 2 \"a\" 3}}{{println .Size \"b\"}}", "1 2a342 b\n"),
    ("{{println}}{{html \"<a>\"}}{{urlquery \"a b&\"}}{{js \"'\"}}", "\n&lt;a&gt;a+b%26\\'"),
    ("a {{- .Size -}} b", "a42b"),
    ("a {{- /* no */ -}} b{{/* a comment */}}", "ab"),
    ("{{- \"x\" -}}\n  {{\"y\"}}", "xy"),
    ("{{\"a\\tb\\u00e9\\x41\"}}{{`\\n`}}{{'a'}}", "a\tb\u{e9}A\\n97"),
    ("{{-3}}{{0x1F}}{{1_000}}{{1.5}}{{true}}", "-33110001.5true"),
    ("{{and 1 0 2}}{{or 0 \"\" \"x\"}}{{not 1}}", "0xfalse"),
    // What is not reached is not looked at.
    ("{{and false (index .RepoTags 9)}}{{or true (index .RepoTags 9)}}", "falsetrue"),
    (
        "{{eq .Size 1 42}}{{ne .Size 42}}{{le 1 1}}{{lt \"a\" \"b\"}}{{ge 1 2}}",
        "truefalsetruetruefalse",
    ),
    ("{{eq nil .Config.Healthcheck}}", "true"),
    ("{{.Descriptor.MediaType}}{{.Descriptor.mediaType}}{{.Descriptor.Size}}", "mm7"),
    ("{{json .Descriptor}}", "{\"mediaType\":\"m\",\"size\":7}"),
    ("\\t{{\"\\t\"}}", "\\t\t"),
];

#[test]
fn templates_print_what_go_prints() {
    for (template, expected) in CASES {
        assert_eq!(render(template).as_deref(), Ok(*expected), "{template}");
    }
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (template, place, part) in [
        ("{{.Nope}}", ".Nope", "no field `.Nope`: there are Config, Descriptor, Id"),
        ("{{.Config.Nope}}", ".Nope", "there are Cmd, Entrypoint, Env"),
        ("{{.Id.Nope}}", ".Nope", "`.Id` is text"),
        ("{{.Config.Healthcheck.Test}}", ".Test", "is not set here"),
        ("a {{nope .Id}}", "nope", "no function `nope`: there are and, eq"),
        ("{{", "{{", "not closed"),
        ("{{.Id", "{{", "not closed"),
        ("{{/* x", "{{", "comment is not closed"),
        ("{{/* x */ .Id}}", "{{", "fill its action"),
        ("{{\"x}}", "\"", "string is not closed"),
        ("{{}}", "{{}}", "empty"),
        ("{{if .Id}}x", "{{if .Id}}", "no `end`"),
        ("{{range .RepoTags}}{{else}}{{else}}{{end}}", "{{else}}", "a second `else`"),
        ("x{{end}}", "{{end}}", "without an `if`"),
        ("{{if}}x{{end}}", "{{if}}", "a value is missing"),
        ("{{break}}", "{{break}}", "outside of a `range`"),
        ("{{$x}}", "$x", "`$x` is not defined"),
        ("{{if .Id}}{{$x := 1}}{{end}}{{$x}}", "$x", "not defined"),
        ("{{template \"x\"}}", "template", "not supported"),
        ("{{define \"x\"}}{{end}}", "define", "not supported"),
        ("{{call .Id}}", "call", "no function `call`"),
        ("{{.Id .Size}}", ".Id", "not a function"),
        ("{{.Id | .Size}}", ".Size", "only a function"),
        ("{{len 1}}", "len 1", "has no length"),
        ("{{len}}", "len", "takes 1 arguments, and gets 0"),
        ("{{index .RepoTags 9}}", "index .RepoTags 9", "out of range: there are 2"),
        ("{{join .Id \",\"}}", "join .Id \",\"", "expected a list, not text"),
        ("{{lt 1 \"a\"}}", "lt 1 \"a\"", "cannot be compared"),
        ("{{(.Id}}", "(", "not closed"),
        ("{{.Id)}}", ")", "not expected"),
        ("{{.Id ; .Id}}", ";", "not expected"),
        ("{{printf \"%*d\" 1 2}}", "printf \"%*d\" 1 2", "not supported"),
        ("{{printf \"%99999d\" 1}}", "printf \"%99999d\" 1", "at most 4096"),
        ("{{12x}}", "12x", "not a number"),
        ("{{'ab'}}", "'", "one character"),
    ] {
        let rendered = Template::parse(template, Escapes::Kept).and_then(|t| t.render(&data()));
        let error = rendered.expect_err(template);
        assert!(error.message.contains(part), "{template}: {}", error.message);
        assert_eq!(&template[error.span.start..error.span.end], place, "{template}");
    }
}

#[test]
fn a_hostile_template_ends() {
    let loops = "{{range 1000}}".repeat(20) + "x" + &"{{end}}".repeat(20);
    let doubled = "{{$x := \"0123456789\"}}{{range 100}}{{$x = print $x $x}}{{end}}";
    let shown = "{{range 9000000000}}{{$.Config.Env}}{{end}}";
    let worked = "{{$x := pad \"x\" 4000 0}}{{range 99999999}}{{$y := upper $x}}{{end}}";
    for template in [&loops, doubled, shown, worked, "{{range 99999999999}}{{end}}"] {
        let message = render(template).unwrap_err();
        assert!(message.contains("too much work") || message.contains("longer than"), "{message}");
    }
    for (open, close) in [("{{if 1}}", "{{end}}"), ("{{", "}}")] {
        let inner = if close == "}}" { "(".repeat(30_000) } else { String::new() };
        let template = open.repeat(if inner.is_empty() { 7000 } else { 1 }) + &inner + close;
        let message = render(&template).unwrap_err();
        assert!(message.contains("deeper"), "{message}");
    }
    let else_ifs = format!("{{{{if 0}}}}{}{{{{end}}}}", "{{else if 0}}".repeat(4000));
    assert!(render(&else_ifs).is_err());
    assert!(render(&"x".repeat(TEMPLATE_MAX + 1)).unwrap_err().contains("longer"));
}

#[test]
fn fields_are_checked_without_data() {
    let check = |template: &str| {
        Template::parse(template, Escapes::Read).unwrap().check_fields(&["ID", "Size"])
    };
    for fine in ["{{.ID}}{{range .Size}}{{.Any}}{{end}}", "{{with .ID}}{{.Other}}{{end}}"] {
        assert!(check(fine).is_ok(), "{fine}");
    }
    for wrong in ["{{.id}}", "{{if .X}}{{end}}", "{{with .ID}}{{$.X}}{{end}}", "{{upper (.X)}}"] {
        assert!(check(wrong).unwrap_err().message.contains("there are ID, Size"), "{wrong}");
    }
}

#[test]
fn a_header_has_the_titles() {
    let titles = Value::row([("ID", Value::text("IMAGE ID")), ("Size", Value::text("SIZE"))]);
    let header = |template: &str| Template::parse(template, Escapes::Read).unwrap().header(&titles);
    assert_eq!(header("{{.ID}}\\t{{lower .Size}}").as_deref(), Some("IMAGE ID\tSIZE"));
    assert_eq!(header("{{json .ID}}").as_deref(), Some("IMAGE ID"));
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_template_or_a_mistake_within_it(text in "[{}. $a-z|():=,\"`'0-9\\\\-]{0,40}|.{0,20}") {
        let template = Template::parse(&text, Escapes::Read);
        match template.and_then(|template| template.render(&data())) {
            Ok(_) => {}
            Err(error) => {
                let Span { start, end } = error.span;
                proptest::prop_assert!(start <= end && end <= text.len().max(2), "{error:?}");
                let _ = error.failure().render(false);
            }
        }
    }
}
