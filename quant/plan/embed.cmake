# cmake -DINPUT=file -DOUTPUT=file.cc -DSYMBOL=name -P embed.cmake
# Turns a file into `extern const std::string_view qs::SYMBOL`.
file(READ "${INPUT}" hex HEX)
string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE "${OUTPUT}"
"#include \"quant/plan/embedded.h\"
namespace qs {
namespace {
constexpr unsigned char kBytes[] = {
${bytes}
};
}  // namespace
const std::string_view ${SYMBOL}(reinterpret_cast<const char*>(kBytes),
                                 sizeof(kBytes));
}  // namespace qs
")
