// Text that nobody vouches for: names of files, tensors and what a server says.
// Thread: pure functions.
#ifndef QS_QUANT_FORMATS_UTF8_H_
#define QS_QUANT_FORMATS_UTF8_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace qs {

// RFC 3629: no overlong form, no surrogate, nothing above U+10FFFF.
bool IsUtf8(std::string_view text);

// Code points; a byte that belongs to none counts as one.
size_t Utf8Length(std::string_view text);

// For a person's terminal: what could move its cursor, change its colours, turn
// the direction of the text or begin a line, and bytes that are no UTF-8, as
// "\n", "\t", "\r" or "\xNN" for each byte. The rest, backslashes included,
// stays, so that the same text twice is the same text.
std::string EscapeControls(std::string_view text);
// The same, but for newlines: for a text of several lines.
std::string EscapeControlsInLines(std::string_view text);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_UTF8_H_
