use super::Template;
use crate::value::Value;

fn run(template: &str, data: &str) -> String {
    let data = Value::parse(data.as_bytes()).unwrap();
    match Template::parse(template) {
        Err(e) => format!("ERROR {e}"),
        Ok(t) => t.execute(&data).unwrap_or_else(|e| format!("ERROR {e}")),
    }
}

const CONTAINER: &str = r#"{"Id":"abc","Name":"/web","State":{"Status":"running","Running":true,"ExitCode":0,"Pid":42},
  "Config":{"Image":"debian","Env":["A=1","B=two words"],"Cmd":null,"Labels":{"com.x/y":"z","a":"b"},"Volumes":null},
  "HostConfig":{"NanoCpus":1500000000,"Binds":null},
  "NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}],"53/udp":null},
    "Networks":{"bridge":{"IPAddress":"172.17.0.2"}}},"Mounts":[{"Type":"bind","Source":"/a","Destination":"/b"}],"Size":1.5}"#;

#[test]
fn templates_give_what_go_gives() {
    let cases: &[(&str, &str)] = &[
        ("plain", "plain"),
        ("{{.Name}}", "/web"),
        ("{{.ID}} {{.Id}}", "abc abc"),
        ("{{.HostConfig.NanoCPUs}}", "1500000000"),
        ("{{.State.Status}}:{{.State.ExitCode}}", "running:0"),
        ("{{.Size}}", "1.5"),
        ("{{json .State}}", r#"{"Status":"running","Running":true,"ExitCode":0,"Pid":42}"#),
        ("{{.State.Status | json}}", r#""running""#),
        ("{{json .Config.Cmd}}", "null"),
        ("{{.Config.Cmd}} {{.Config.Volumes}} {{.HostConfig.Binds}}", "[] map[] []"),
        ("{{.Config.Env}}", "[A=1 B=two words]"),
        ("{{.Config.Labels}}", "map[a:b com.x/y:z]"),
        ("{{.Mounts}} {{.State}}", "[{bind /a /b}] {running true 0 42}"),
        ("{{.State.Health}} {{json .State.Health}}", "<nil> null"),
        ("{{json .Name}}{{json (print \"<&>\")}}", "\"/web\"\"<&>\""),
        (
            "{{.Config.Nope}}",
            "ERROR template: :1:9: executing \"\" at <.Config.Nope>: map has no entry for key \"Nope\"",
        ),
        (r#"{{index .Config.Labels "com.x/y"}}"#, "z"),
        (r#"{{index .Config.Labels "none"}}|"#, "|"),
        ("{{.Config.Labels.a}}{{.Config.Labels.none}}", "b<no value>"),
        ("{{range .Config.Env}}{{.}};{{end}}", "A=1;B=two words;"),
        ("{{range $i, $e := .Config.Env}}{{$i}}={{$e}} {{end}}", "0=A=1 1=B=two words "),
        ("{{range $k, $v := .Config.Labels}}{{$k}}->{{$v}},{{end}}", "a->b,com.x/y->z,"),
        (
            "{{range $p, $c := .NetworkSettings.Ports}}{{if $c}}{{$p}}={{(index $c 0).HostPort}}{{end}}{{end}}",
            "80/tcp=8080",
        ),
        (r#"{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}"#, "8080"),
        (r#"{{with index .NetworkSettings.Ports "80/tcp"}}{{(index . 0).HostIp}}{{end}}"#, "0.0.0.0"),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "172.17.0.2"),
        ("{{.NetworkSettings.Networks.bridge.IPAddress}}", "172.17.0.2"),
        ("{{range .Mounts}}{{.Type}} {{.Source}}:{{.Destination}}{{end}}", "bind /a:/b"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if not .State.Running}}up{{else if eq .State.Pid 42}}pid{{else}}down{{end}}", "pid"),
        (r#"{{if and .State.Running (eq .State.Status "running")}}y{{end}}"#, "y"),
        (r#"{{if or (ne .Name "/web") (lt .State.Pid 50)}}y{{end}}"#, "y"),
        (r#"{{eq .State.Status "x" "running"}}"#, "true"),
        ("{{gt .State.Pid 41}} {{ge .State.Pid 42}} {{le .State.Pid 41}}", "true true false"),
        ("{{len .Config.Env}} {{len .Name}}", "2 4"),
        ("{{slice .Name 1}} {{slice .Name 1 3}}", "web we"),
        ("{{.Name | printf \"%-8s|\"}}", "/web    |"),
        (
            "{{printf \"%5d|%-5d|%05d|%x|%q|%.2f|%v|%t\" 42 42 42 255 \"a\" 1.5 .Config.Env true}}",
            "   42|42   |00042|ff|\"a\"|1.50|[A=1 B=two words]|true",
        ),
        ("{{printf \"%x %b %#x\" -3 5 255}}", "-3 101 0xff"),
        ("{{printf \"%s\"}}", "%!s(MISSING)"),
        ("{{printf \"%d\" \"x\"}}", "%!d(string=x)"),
        ("{{print 1 2 \"a\" \"b\" 3}}", "1 2ab3"),
        ("{{println .Name}}", "/web\n"),
        (r#"{{join (split "a,b,c" ",") "-"}}"#, "a-b-c"),
        ("{{upper .Name}} {{lower \"ABC\"}} {{title \"hello world\"}}", "/WEB abc Hello World"),
        ("{{pad .Name 1 2}}|{{truncate .Name 2}}", " /web  |/w"),
        ("{{$x := .Name}}{{$x}}{{$x = \"n\"}}{{$x}}", "/webn"),
        ("{{with $s := .State}}{{$s.Pid}}{{$.Name}}{{end}}", "42/web"),
        ("{{with .Config.Cmd}}a{{else}}none{{end}}", "none"),
        ("{{range .Config.Cmd}}a{{else}}empty{{end}}", "empty"),
        ("a {{- /* no */ -}} b", "ab"),
        ("a {{- .Id -}} b", "aabcb"),
        ("{{range $i, $e := .Config.Env}}{{if $i}}{{break}}{{end}}{{$e}}{{end}}", "A=1"),
        ("{{range $i, $e := .Config.Env}}{{if not $i}}{{continue}}{{end}}{{$e}}{{end}}", "B=two words"),
        ("{{`raw \"x\"`}}{{'a'}}{{0x10}}{{-3}}", "raw \"x\"9716-3"),
        ("{{html \"<a>\"}}", "&lt;a&gt;"),
        ("{{.Missing}}", "ERROR template: :1:2: executing \"\" at <.Missing>: map has no entry for key \"Missing\""),
        ("{{nope .Id}}", "ERROR template: :1: function \"nope\" not defined"),
        ("{{if .Id}}x", "ERROR template: :1: unexpected EOF"),
        ("{{.Id", "ERROR template: :1: unclosed action"),
        ("{{end}}", "ERROR template: :1: unexpected {{end}}"),
        ("{{}}", "ERROR template: :1: missing value for command"),
        ("{{\"a}}", "ERROR template: :1: unterminated quoted string"),
        ("{{template \"x\"}}", "ERROR template: :1: template is not supported in --format"),
    ];
    for (template, expected) in cases {
        assert_eq!(run(template, CONTAINER), *expected, "{template}");
    }
}

#[test]
fn a_method_takes_its_argument_from_the_row() {
    let row = Value::Map(vec![("Label".into(), Value::Lookup(vec![("x".into(), "1".into())]))]);
    let t = Template::parse(r#"{{.Label "x"}}{{.Label "y"}}{{upper (.Label "x")}}"#).unwrap();
    assert_eq!(t.execute(&row).unwrap(), "11");
}

#[test]
fn a_template_nested_without_end_is_refused_not_followed() {
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(5000), ")".repeat(5000));
    assert!(run(&deep, "{}").contains("nested too deeply"));
    let deep = "{{if 1}}".repeat(5000);
    assert!(run(&deep, "{}").contains("nested too deeply"));
}

/// A small generator with a fixed start: the same texts on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

#[test]
fn no_text_makes_the_interpreter_panic() {
    const PARTS: &[&str] = &[
        "{{",
        "}}",
        "{{-",
        "-}}",
        " ",
        ".",
        "$",
        "$x",
        ":=",
        "=",
        "|",
        "(",
        ")",
        ",",
        "\"a\"",
        "\"",
        "`",
        "'",
        "'é'",
        "é",
        "1",
        "-1",
        "0x",
        "1e9",
        "range",
        "if",
        "else",
        "end",
        "with",
        "break",
        "continue",
        "and",
        "or",
        "not",
        "eq",
        "lt",
        "index",
        "slice",
        "len",
        "print",
        "printf",
        "json",
        "split",
        "join",
        "upper",
        "title",
        "pad",
        "truncate",
        ".State",
        ".Config.Env",
        ".Name",
        ".Mounts",
        "\\",
        "%",
        "\"%5.*d%q%x%s%v%e\"",
        "nil",
        "true",
        "/*",
        "*/",
        "\n",
        "99999999999999999999",
    ];
    let data = Value::parse(CONTAINER.as_bytes()).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut executed = 0;
    for _ in 0..30_000 {
        let mut text = String::new();
        for _ in 0..random.below(14) {
            text.push_str(PARTS[random.below(PARTS.len())]);
            if random.below(3) > 0 {
                text.push(' ');
            }
        }
        // Half of them well-formed on the outside, or nothing would ever be executed.
        let text = if random.below(2) == 0 { format!("{{{{{text}}}}}") } else { text };
        if let Ok(template) = Template::parse(&text) {
            executed += usize::from(template.execute(&data).is_ok());
            template.mentions("Name");
        }
    }
    assert!(executed > 1000, "only {executed} ran");
}

#[test]
fn a_template_mentions_what_it_prints() {
    let mentions = |text: &str, name: &str| Template::parse(text).unwrap().mentions(name);
    for whole in ["{{json .}}", "{{json $}}", "{{with $row := .}}{{$row.Names}}{{end}}"] {
        assert!(mentions(whole, "Size"), "{whole}");
    }
    for one in ["{{.Size}}", "{{.size}}", "{{$.Size}}", "{{if .Names}}{{upper .Size}}{{end}}", "{{len (.Size)}}"] {
        assert!(mentions(one, "Size") && !mentions(one, "Ports"), "{one}");
    }
    assert!(!mentions("Size", "Size"));
}
