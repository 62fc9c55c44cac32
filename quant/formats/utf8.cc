// Tested by tests/formats/utf8_test.cc.
#include "quant/formats/utf8.h"

#include <cstdint>

#include "absl/strings/str_format.h"

namespace qs {
namespace {

// The first character of a text.
struct Character {
  size_t bytes = 1;
  uint32_t code = 0;
  bool valid = false;
};

Character FirstOf(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, lead, true};
  const size_t size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  // The least code that needs so many bytes.
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  if (lead < 0xc2 || lead > 0xf4 || text.size() < size) return {};
  uint32_t code = lead & (0x7f >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    code = code << 6 | (byte(i) & 0x3f);
  }
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  if (code < kLeast[size] || code > 0x10ffff || surrogate) return {};
  return {size, code, true};
}

// C0, DEL and C1; separators of lines and paragraphs; what turns the direction.
bool IsControl(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x2028 ||
         code == 0x2029 || code == 0x200e || code == 0x200f || code == 0x061c ||
         (code >= 0x202a && code <= 0x202e) ||
         (code >= 0x2066 && code <= 0x2069) || code == 0xfeff;
}

void AppendEscaped(std::string_view bytes, std::string* out) {
  for (const char byte : bytes) {
    switch (byte) {
      case '\n':
        out->append("\\n");
        break;
      case '\t':
        out->append("\\t");
        break;
      case '\r':
        out->append("\\r");
        break;
      default:
        absl::StrAppendFormat(out, "\\x%02x", static_cast<uint8_t>(byte));
    }
  }
}

std::string Escape(std::string_view text, bool newlines) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Character first = FirstOf(text);
    const std::string_view bytes = text.substr(0, first.bytes);
    const bool stays = first.valid && !IsControl(first.code);
    if (stays || (bytes == "\n" && !newlines)) {
      out.append(bytes);
    } else {
      AppendEscaped(bytes, &out);
    }
    text.remove_prefix(first.bytes);
  }
  return out;
}

}  // namespace

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const Character first = FirstOf(text);
    if (!first.valid) return false;
    text.remove_prefix(first.bytes);
  }
  return true;
}

size_t Utf8Length(std::string_view text) {
  size_t length = 0;
  for (; !text.empty(); ++length) text.remove_prefix(FirstOf(text).bytes);
  return length;
}

std::string EscapeControls(std::string_view text) { return Escape(text, true); }

std::string EscapeControlsInLines(std::string_view text) {
  return Escape(text, false);
}

}  // namespace qs
