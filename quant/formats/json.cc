// Tested by tests/formats/json_test.cc.
#include "quant/formats/json.h"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "quant/formats/utf8.h"

namespace qs {
namespace {

using Json = nlohmann::ordered_json;

// Cuts between characters of UTF-8, not inside one.
std::string Cut(std::string text, size_t most) {
  if (text.size() <= most) return text;
  while (most > 0 && (static_cast<uint8_t>(text[most]) & 0xc0) == 0x80) --most;
  text.resize(most);
  return text + "...";
}

// The first key that an object has twice, or null.
const std::string* DuplicateKey(const Json::object_t& object) {
  std::vector<const std::string*> keys;
  keys.reserve(object.size());
  for (const auto& [key, value] : object) keys.push_back(&key);
  std::sort(keys.begin(), keys.end(),
            [](const auto* a, const auto* b) { return *a < *b; });
  const auto twice =
      std::adjacent_find(keys.begin(), keys.end(),
                         [](const auto* a, const auto* b) { return *a == *b; });
  return twice == keys.end() ? nullptr : *twice;
}

// Builds the value from parser events. The library's own builder looks every
// key up, which is quadratic for ordered objects.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view what, const JsonLimits& limits)
      : what_(what), limits_(limits) {}

  absl::Status TakeStatus() { return std::move(status_); }
  Json TakeRoot() { return std::move(root_); }

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(int64_t value) override { return Add(value); }
  bool number_unsigned(uint64_t value) override { return Add(value); }
  bool number_float(double value, const std::string&) override {
    return Add(value);
  }
  bool string(std::string& value) override { return Add(std::move(value)); }
  bool binary(Json::binary_t&) override { return Fail("got binary"); }
  bool start_object(size_t) override { return Open(Json::object()); }
  bool start_array(size_t) override { return Open(Json::array()); }
  bool end_array() override { return Close(); }

  bool key(std::string& value) override {
    key_ = std::move(value);
    return true;
  }

  bool end_object() override {
    const std::string* twice =
        DuplicateKey(open_.back()->get_ref<const Json::object_t&>());
    if (twice != nullptr) {
      return Fail(absl::StrCat("key ", QuoteForError(*twice),
                               ": got twice, allowed: once"));
    }
    return Close();
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    const std::string_view text = error.what();  // "[json.exception...] why"
    const size_t bracket = text.find("] ");
    const std::string why(bracket == text.npos ? text
                                               : text.substr(bracket + 2));
    // The parser counts the byte it stopped at.
    const size_t at = position == 0 ? 0 : position - 1;
    return Fail(absl::StrCat("byte ", at, ": got ",
                             EscapeControls(Cut(why, 200)), ", allowed: JSON"));
  }

 private:
  bool Fail(const std::string& text) {
    status_ = absl::InvalidArgumentError(absl::StrCat(what_, ": ", text));
    return false;
  }

  Json* Place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      auto& items = parent.get_ref<Json::array_t&>();
      return &items.emplace_back(std::move(value));
    }
    std::vector<Json::object_t::value_type>& members =
        parent.get_ref<Json::object_t&>();
    return &members.emplace_back(std::move(key_), std::move(value)).second;
  }

  bool Add(Json value) {
    if (++num_values_ > limits_.max_values) {
      return Fail(
          absl::StrCat("got more values than allowed: ", limits_.max_values));
    }
    if (open_.empty() && !value.is_object()) {
      return Fail(
          absl::StrCat("got ", JsonForError(value), ", allowed: an object"));
    }
    last_ = Place(std::move(value));
    return true;
  }

  bool Open(Json container) {
    if (static_cast<int>(open_.size()) >= limits_.max_depth) {
      return Fail(
          absl::StrCat("got more depth than allowed: ", limits_.max_depth));
    }
    if (!Add(std::move(container))) return false;
    open_.push_back(last_);
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  const std::string what_;
  const JsonLimits limits_;
  absl::Status status_;
  Json root_;
  // A container does not move while one inside it is open.
  std::vector<Json*> open_;
  Json* last_ = nullptr;
  std::string key_;
  int64_t num_values_ = 0;
};

// The mark of a bare word, as the library writes it.
constexpr std::string_view kEscapedBareWord = "\\u0001";
constexpr std::string_view kBareWords[] = {"NaN", "Infinity", "-Infinity"};

std::string_view BareWordAt(std::string_view text) {
  for (const std::string_view word : kBareWords) {
    if (!text.starts_with(word)) continue;
    // A word before a colon is a key, and no value.
    const size_t next = text.find_first_not_of(" \t\r\n", word.size());
    return next == text.npos || text[next] == ':' ? "" : word;
  }
  return "";
}

// Bare words outside of strings as strings.
std::string WithQuotedWords(std::string_view text) {
  std::string out;
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    const std::string_view word =
        in_string ? std::string_view() : BareWordAt(text.substr(i));
    if (!word.empty()) {
      absl::StrAppend(&out, "\"", std::string(kEscapedBareWord),
                      std::string(word), "\"");
      i += word.size();
      continue;
    }
    if (text[i] == '"') in_string = !in_string;
    out += text[i++];
    // What a backslash makes of the next one is no end of the string.
    if (in_string && out.back() == '\\' && i < text.size()) out += text[i++];
  }
  return out;
}

}  // namespace

absl::StatusOr<Json> ParseConfigJson(std::string_view text,
                                     std::string_view what,
                                     const JsonLimits& limits) {
  absl::StatusOr<Json> plain = ParseJsonObject(text, what, limits);
  if (plain.ok() || text.find(kEscapedBareWord) != text.npos ||
      static_cast<int64_t>(text.size()) > limits.max_bytes) {
    return plain;
  }
  // Positions in errors are those of the text as it came.
  absl::StatusOr<Json> kept =
      ParseJsonObject(WithQuotedWords(text), what, limits);
  return kept.ok() ? kept : plain;
}

std::string DumpConfigJson(const Json& config) {
  const std::string text =
      config.dump(2, ' ', true, Json::error_handler_t::replace);
  const std::string mark = absl::StrCat("\"", std::string(kEscapedBareWord));
  std::string out;
  size_t done = 0;
  for (size_t at = text.find(mark); at != text.npos;
       at = text.find(mark, at + 1)) {
    for (const std::string_view word : kBareWords) {
      const size_t end = at + mark.size() + word.size();
      if (text.compare(at + mark.size(), word.size(), word) != 0) continue;
      // The quote that ends a value; behind a key there is a colon.
      if (text[end] != '"' || text[end + 1] == ':') continue;
      absl::StrAppend(&out, text.substr(done, at - done), std::string(word));
      done = end + 1;
    }
  }
  return out + text.substr(done);
}

std::string QuoteForError(std::string_view text) {
  // Escaping what is cut anyway would cost time and memory.
  const std::string cut = Cut(std::string(text.substr(0, 124)), 120);
  return absl::StrCat("\"", EscapeControls(absl::Utf8SafeCHexEscape(cut)),
                      "\"");
}

std::string JsonForError(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  if (value.is_string()) {
    return QuoteForError(value.get_ref<const std::string&>());
  }
  return value.dump();
}

absl::StatusOr<Json> ParseJsonObject(std::string_view text,
                                     std::string_view what,
                                     const JsonLimits& limits) {
  const std::string name(what);
  if (static_cast<int64_t>(text.size()) > limits.max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": got ", text.size(),
                                                   " bytes, allowed: at most ",
                                                   limits.max_bytes));
  }
  // The parser takes a NUL for the end of the text.
  if (const size_t nul = text.find('\0'); nul != text.npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": byte ", nul, ": got NUL, allowed: JSON"));
  }
  try {
    Builder builder(what, limits);
    if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
      return builder.TakeStatus();
    }
    return builder.TakeRoot();
  } catch (const std::exception& e) {
    return absl::ResourceExhaustedError(
        absl::StrCat(name, ": parsing failed: ", e.what()));
  }
}

}  // namespace qs
