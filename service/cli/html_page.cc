// Tested by tests/cli/report_test.cc.
#include "service/cli/html_page.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "service/cli/svg.h"

namespace qs::cli {
namespace {

constexpr char kStyle[] = R"css(
:root { color-scheme: light dark;
  --page: #f6f6f3; --card: #ffffff; --ink: #16191d; --soft: #5d6670;
  --line: #e3e5e3; --ours: #1f6feb; --rtn: #8b929a; --source: #b9c0c8;
  --carried: #e0a638; --on-ours: #ffffff; --on-other: #16191d; }
@media (prefers-color-scheme: dark) { :root {
  --page: #101214; --card: #181b1f; --ink: #eceef0; --soft: #9aa4ae;
  --line: #2b3036; --ours: #5b9dff; --rtn: #8d969f; --source: #59626c;
  --carried: #c28a1d; --on-ours: #0b0d0f; --on-other: #ffffff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; margin: 12px 0 0;
  gap: 2px 16px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0; }
p { margin: 4px 0 0; color: var(--soft); }
.tiles { display: grid; gap: 12px; margin: 24px 0 12px;
  grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); }
.tile:first-child { grid-column: span 2; }
.tile, .card { background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 19px; font-weight: 600;
  white-space: nowrap; }
.tile span { color: var(--soft); font-size: 13px; }
.card { margin-top: 12px; min-width: 0; }
.pair { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); }
svg { display: block; width: 100%; height: auto; margin-top: 10px; }
.card { overflow-x: auto; }
svg.wide { min-width: 640px; }
svg text { fill: var(--soft); font-size: 12px; }
svg text.title { fill: var(--ink); }
svg rect.ours + text.inside { fill: var(--on-ours); }
svg text.inside { fill: var(--on-other); font-weight: 600; }
.grid { stroke: var(--line); }
.stem { stroke: var(--rtn); stroke-width: 1.5; }
.dense .stem { stroke-width: 1; opacity: 0.35; }
.dense circle.rtn { fill: var(--rtn); stroke: none; }
circle.rtn { fill: var(--card); stroke: var(--rtn); stroke-width: 1.5; }
circle.ours, rect.ours { fill: var(--ours); }
rect.source { fill: var(--source); }
rect.carried { fill: var(--carried); }
.mark:hover circle.ours { stroke: var(--ink); stroke-width: 2; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 6px;
  color: var(--soft); font-size: 13px; }
.key i { display: inline-block; width: 11px; height: 11px; margin-right: 6px;
  border-radius: 3px; background: var(--c); vertical-align: -1px; }
.key i.ring { border-radius: 50%; background: none;
  border: 2px solid var(--rtn); }
.key i.dot { border-radius: 50%; }
.scroll { overflow: auto; margin-top: 10px; max-height: 640px; }
@media print { .scroll { max-height: none; } }
table { border-collapse: collapse; width: 100%; font-size: 13px;
  font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 500;
  position: sticky; top: 0; background: var(--card); }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
td.n, th.n { text-align: right; }
tr.total td { font-weight: 600; }
td.text { white-space: normal; min-width: 180px; }
td.name { font-family: ui-monospace, Menlo, Consolas, monospace; }
details { margin-top: 10px; }
summary { cursor: pointer; color: var(--soft); }
)css";

}  // namespace

std::string Tile(const std::string& value, const std::string& label) {
  return absl::StrCat("<div class=\"tile\"><b>", HtmlEscape(value),
                      "</b><span>", HtmlEscape(label), "</span></div>\n");
}

std::string Cell(const std::string& text, const char* name) {
  return absl::StrCat("<td", *name == 0 ? "" : " class=\"", name,
                      *name == 0 ? ">" : "\">", HtmlEscape(text), "</td>");
}

std::string Head(std::initializer_list<const char*> left,
                 std::initializer_list<const char*> right) {
  std::string html = "<thead><tr>";
  for (const char* text : left) absl::StrAppend(&html, "<th>", text, "</th>");
  for (const char* text : right) {
    absl::StrAppend(&html, "<th class=\"n\">", text, "</th>");
  }
  return html + "</tr></thead>\n<tbody>\n";
}

std::string Card(const std::string& title, const std::string& note,
                 const std::string& key, const std::string& content) {
  if (content.empty()) return "";
  return absl::StrCat("<section class=\"card\"><h2>", title, "</h2><p>", note,
                      "</p>",
                      key.empty() ? "" : "<div class=\"key\">" + key + "</div>",
                      content, "</section>\n");
}

std::string Key(const char* shape, const char* color, const char* text) {
  return absl::StrFormat(
      "<span><i class=\"%s\" style=\"--c:var(--%s)\"></i>%s</span>", shape,
      color, text);
}

std::string Fact(const char* name, const std::string& value) {
  if (value.empty()) return "";
  return absl::StrCat("<dt>", name, "</dt><dd>", HtmlEscape(value), "</dd>\n");
}

std::string HtmlPage(const std::string& title, const std::string& body) {
  return absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\">\n<title>",
      HtmlEscape(title), "</title>\n<style>", kStyle,
      "</style></head>\n<body><main>\n", body, "</main></body></html>\n");
}

}  // namespace qs::cli
