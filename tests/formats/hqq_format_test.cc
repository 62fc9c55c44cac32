// hqq's state dict against what hqq 0.2.8.post1 packs and saves.
#include "quant/formats/hqq_format.h"

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "quant/formats/checkpoint.h"
#include "tests/formats/format_files.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/golden_file.h"

namespace qs::testing {
namespace {

const std::string kModule = "model.layers.0.self_attn.q_proj";
const std::string kName = kModule + ".weight";

std::vector<uint8_t> BytesOf(const Buffer& buffer) {
  return {buffer.data(), buffer.data() + buffer.size()};
}

Buffer Allocated(int64_t bytes) {
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(bytes);
  REQUIRE(buffer.ok());
  return *std::move(buffer);
}

Buffer Copy(const Buffer& from) {
  Buffer to = Allocated(from.size());
  std::memcpy(to.data(), from.data(), static_cast<size_t>(from.size()));
  return to;
}

bool Begins(const std::string& path, const std::string& start) {
  return path.substr(path.rfind('/') + 1).starts_with(start);
}

HqqLayout LayoutOf(const nlohmann::json& item, const GoldenTensor& codes) {
  HqqLayout layout{kName, DType::kF32, codes.shape[0], codes.shape[1]};
  layout.bits = item.at("nbits");
  layout.group_size = item.at("group_size");
  layout.axis = item.at("axis");
  return layout;
}

// A weight of 8 x 10 codes of `bits`, groups of 10, built by the writer.
void StoreSmall(int bits, int axis, StoredCopy* stored) {
  HqqLayout layout{"a.weight", DType::kBF16, 8, 10};
  layout.bits = bits;
  layout.group_size = axis == 1 ? 10 : 8;
  layout.axis = axis;
  HqqPieces pieces{Allocated(HqqPackedBytes(layout)),
                   Allocated(2 * layout.groups()),
                   Allocated(2 * layout.groups())};
  for (Buffer* piece : {&pieces.packed, &pieces.scales, &pieces.zeros}) {
    std::memset(piece->data(), 0, static_cast<size_t>(piece->size()));
  }
  auto tensors = HqqTensors(layout, std::move(pieces));
  REQUIRE(tensors.ok());
  for (const OutputTensor& tensor : *tensors) {
    stored->Set(tensor.name, tensor.dtype, tensor.shape, BytesOf(tensor.data));
  }
}

template <typename Change>
absl::Status After(Change change, int bits = 3, int axis = 1) {
  StoredCopy stored;
  StoreSmall(bits, axis, &stored);
  change(stored);
  return DecodeHqq(stored.items(), "a.weight").status();
}

void CheckInvalid(const absl::Status& status, const std::string& text) {
  INFO("wanted: " << text << "\ngot: " << Text(status));
  CHECK(IsInvalid(status, text));
}

}  // namespace

TEST_CASE("codes pack as hqq packs them, and come back", "[hqq_format]") {
  int cases = 0;
  for (const std::string& path : GoldenPaths("golden/hqq_pack")) {
    if (!Begins(path, "packing_")) continue;
    const GoldenFile file = ReadGolden(path);
    const auto list =
        nlohmann::json::parse(file.metadata.at("cases").get<std::string>());
    for (const nlohmann::json& item : list) {
      const std::string prefix = item.at("prefix");
      INFO(path << " " << prefix);
      const GoldenTensor& codes = file.tensors.at(prefix + ".codes");
      const GoldenTensor& packed = file.tensors.at(prefix + ".W_q");
      const HqqLayout layout = LayoutOf(item, codes);
      REQUIRE(CheckHqqLayout(layout).ok());
      REQUIRE(HqqPackedBytes(layout) ==
              static_cast<int64_t>(packed.bytes.size()));
      for (const auto& backend : AllBackends()) {
        INFO("on " << backend->name());
        std::vector<uint8_t> words(packed.bytes.size() + 1, 0xee);
        REQUIRE(PackHqqCodes(layout, codes.bytes.data(), *backend, words.data())
                    .ok());
        CHECK(words.back() == 0xee);
        words.pop_back();
        CHECK(words == packed.bytes);
        std::vector<uint8_t> again(codes.bytes.size());
        REQUIRE(
            UnpackHqqCodes(layout, words.data(), *backend, again.data()).ok());
        CHECK(again == codes.bytes);
      }
      ++cases;
    }
  }
  CHECK(cases >= 15);
}

TEST_CASE("files that hqq saved are read and written again to the byte",
          "[hqq_format]") {
  int files = 0;
  for (const std::string& path : GoldenPaths("golden/hqq_pack")) {
    if (!Begins(path, "serialized_")) continue;
    INFO(path);
    const SafetensorsFile file = OpenOrFail(path);
    const StoredCopy stored(file);
    const auto weight = ReadHqq(stored.items(), kName);
    INFO(Text(weight.status()));
    REQUIRE(weight.ok());
    HqqPieces pieces{Allocated(HqqPackedBytes(weight->layout)),
                     Copy(weight->scales), Copy(weight->zeros)};
    REQUIRE(PackHqqCodes(weight->layout, weight->codes.data(),
                         *NewCpuBackend(1), pieces.packed.data())
                .ok());
    const auto tensors = HqqTensors(weight->layout, std::move(pieces));
    REQUIRE(tensors.ok());
    std::vector<SafetensorsItem> items;
    int64_t bytes = 0;
    for (const OutputTensor& tensor : *tensors) {
      items.push_back(
          {tensor.name, tensor.dtype, tensor.shape, tensor.data.bytes()});
      bytes += tensor.data.size();
    }
    CHECK(bytes == HqqOutputBytes(weight->layout));
    items.push_back(stored.items().at(kModule + ".bias"));
    const TempDir folder;
    const std::string copy = folder.File("copy.safetensors");
    REQUIRE(WriteSafetensors(copy, items).ok());
    const bool same = ReadText(copy) == ReadText(path);
    CHECK(same);
    ++files;
  }
  CHECK(files == 24);
}

TEST_CASE("decoding rounds the difference, then the product", "[hqq_format]") {
  for (const int axis : {0, 1}) {
    StoredCopy stored;
    StoreSmall(8, axis, &stored);
    stored.Bytes("a.W_q")[0] = 200;
    const uint16_t zero = FloatToBf16(3.296875f), scale = FloatToBf16(0.0117f);
    std::memcpy(stored.Bytes("a.zero").data(), &zero, 2);
    std::memcpy(stored.Bytes("a.scale").data(), &scale, 2);
    const auto weight = DecodeHqq(stored.items(), "a.weight");
    REQUIRE(weight.ok());
    const float difference = Bf16ToFloat(FloatToBf16(200 - Bf16ToFloat(zero)));
    CHECK(difference == 197.0f);
    CHECK(weight->data.As<uint16_t>()[0] ==
          FloatToBf16(difference * Bf16ToFloat(scale)));
    // The second value of group 0: one on, or one group's stride on.
    const size_t second = axis == 1 ? 1 : 10;
    CHECK(weight->data.As<uint16_t>()[second] ==
          FloatToBf16(Bf16ToFloat(FloatToBf16(-Bf16ToFloat(zero))) *
                      Bf16ToFloat(scale)));
    CHECK(weight->data.As<uint16_t>()[axis == 1 ? 10 : 1] << 1 == 0);
  }
}

TEST_CASE("stored tensors that do not fit", "[hqq_format]") {
  StoredCopy all;
  StoreSmall(4, 1, &all);
  CHECK(all.items().size() == 19);
  for (const auto& [name, item] : all.items()) {
    INFO(name);
    if (name == "a.offload_meta" || name == "a.optimize" ||
        name == "a.round_zero") {
      continue;  // no effect on a weight
    }
    const auto erase = [&n = name](StoredCopy& s) { s.Erase(n); };
    CheckInvalid(After(erase, 4), name + "\": got nothing");
    const auto retype = [&n = name](StoredCopy& s) {
      s.Set(n, DType::kF64, {1}, std::vector<uint8_t>(8));
    };
    CheckInvalid(After(retype, 4), name);
  }
  const auto set_int = [](const char* key, uint8_t value) {
    return [key, value](StoredCopy& s) { s.Bytes(key)[0] = value; };
  };
  CheckInvalid(After(set_int("a.nbits", 5)), "got 5 bits");
  CheckInvalid(After(set_int("a.axis", 2)), "axis 2");
  CheckInvalid(After(set_int("a.group_size", 0)), "group_size 0");
  CheckInvalid(After(set_int("a.group_size", 7)), "group_size 7");
  CheckInvalid(After(set_int("a.view_as_float", 1)), "a.view_as_float");
  CheckInvalid(After(set_int("a.quant_zero", 1)), "a.quant_zero");
  CheckInvalid(After(set_int("a.channel_wise", 0)), "a.channel_wise");
  CheckInvalid(After(set_int("a.packing", 'x')), "a.packing\": got \"xbit_32");
  CheckInvalid(After([](StoredCopy& s) {
                 s.SetText("a.compute_dtype", "torch.float64");
               }),
               "torch.float64");
  CheckInvalid(After([](StoredCopy& s) { s.Bytes("a.shape")[7] = 0x40; }),
               "group_size");
  CheckInvalid(After([](StoredCopy& s) {
                 s.Bytes("a.zero")[2] = 0x80, s.Bytes("a.zero")[3] = 0x7f;
               }),
               "a.zero\": got inf at index 1");
}

TEST_CASE("bits beside ten 3-bit codes are zero", "[hqq_format]") {
  // 8 code rows in words of ten: the last two places are empty.
  CHECK(After([](StoredCopy& s) { s.Bytes("a.W_q")[0] = 0xc0; }).ok());
  for (const auto& [byte, value] : std::vector<std::pair<size_t, uint8_t>>{
           {0, 0x01}, {0, 0x20}, {3, 0x40}}) {
    CheckInvalid(After([&, b = byte, v = value](StoredCopy& s) {
                   s.Bytes("a.W_q")[b] = v;
                 }),
                 "a.W_q\": got bits beside the codes in row 0");
  }
}

TEST_CASE("shapes that hqq cannot pack", "[hqq_format]") {
  const auto check = [](int bits, int axis, int64_t group, int64_t rows,
                        int64_t cols) {
    HqqLayout layout{"a.weight", DType::kF16, rows, cols};
    layout.bits = bits;
    layout.axis = axis;
    layout.group_size = group;
    return CheckHqqLayout(layout);
  };
  CHECK(check(4, 1, 8, 3, 16).ok());
  CheckInvalid(check(4, 1, 16, 3, 16), "3 groups, allowed: a multiple of 2");
  CheckInvalid(check(2, 1, 8, 1, 16), "2 groups, allowed: a multiple of 4");
  CheckInvalid(check(1, 0, 12, 12, 8),
               "12 codes a group, allowed: a multiple of 8");
  CHECK(check(3, 1, 16, 3, 16).ok());
  CheckInvalid(check(4, 1, 0, 4, 16), "group_size 0");
  CheckInvalid(check(4, 1, 64, 4, 8), "group_size 64");
  CheckInvalid(check(4, 1, 16, int64_t{1} << 40, int64_t{1} << 40),
               "group_size");
}

TEST_CASE("the configuration", "[hqq_format]") {
  CHECK(HqqConfigJson({.bits = 4, .group_size = 64}, {"lm_head"}) ==
        R"({"quant_config":{"offload_meta":false,"scale_quant_params":null,)"
        R"("weight_quant_params":{"axis":1,"channel_wise":true,)"
        R"("group_size":64,"nbits":4,"optimize":true,"round_zero":true,)"
        R"("view_as_float":false},"zero_quant_params":null},)"
        R"("quant_method":"hqq","skip_modules":["lm_head"]})");
}

}  // namespace qs::testing
