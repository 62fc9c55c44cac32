// The elements of the reports' pages, and their style sheet. Texts are escaped
// here, but for those that say "html". Thread: pure functions.
#ifndef QS_SERVICE_CLI_HTML_PAGE_H_
#define QS_SERVICE_CLI_HTML_PAGE_H_

#include <initializer_list>
#include <string>

namespace qs::cli {

// A figure and what it is.
std::string Tile(const std::string& value, const std::string& label);
// Of a table; `name` is its class: "n" for numbers, "name" for code,
// "text" for what may wrap.
std::string Cell(const std::string& text, const char* name = "");
// The titles of a table's columns (html), and the start of its body.
std::string Head(std::initializer_list<const char*> left,
                 std::initializer_list<const char*> right);
// A section; empty without content. All html.
std::string Card(const std::string& title, const std::string& note,
                 const std::string& key, const std::string& content);
// One entry of a chart's key: "dot", "ring" or "" in the style's `color`.
std::string Key(const char* shape, const char* color, const char* text);
// One line of a definition list; empty without a value.
std::string Fact(const char* name, const std::string& value);
// `body` is html.
std::string HtmlPage(const std::string& title, const std::string& body);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_HTML_PAGE_H_
