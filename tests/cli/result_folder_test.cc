// ResultFolder: what a server sends, in order and not, and what stays of it.
#include "service/cli/result_folder.h"

#include <filesystem>
#include <fstream>

#include "service/cli/exit_code.h"
#include "service/stream/crc32c.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs::cli {
namespace {

namespace fs = std::filesystem;
namespace v1 = quant::v1;
using ::qs::testing::TemporaryFolder;

std::span<const uint8_t> BytesOf(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string DigestOf(const std::string& bytes) {
  Sha256 digest;
  digest.Update(BytesOf(bytes));
  return digest.Finish();
}

v1::FileChunk Chunk(const std::string& file, const std::string& content,
                    size_t offset, size_t size) {
  v1::FileChunk chunk;
  chunk.set_file(file);
  chunk.set_offset(static_cast<int64_t>(offset));
  chunk.set_data(content.substr(offset, size));
  chunk.set_crc32c(Crc32c(BytesOf(chunk.data())));
  chunk.set_size_bytes(static_cast<int64_t>(content.size()));
  chunk.set_digest(DigestOf(content));
  chunk.set_last(offset + chunk.data().size() == content.size());
  return chunk;
}

bool Never() { return false; }

struct Fixture {
  std::unique_ptr<ResultFolder> Open() {
    auto opened = ResultFolder::Open(folder / "out", "id");
    INFO(opened.status().ToString());
    REQUIRE(opened.ok());
    return *std::move(opened);
  }
  std::string Read(const std::string& file) const {
    std::ifstream in(folder / ("out/" + file));
    return {std::istreambuf_iterator<char>(in), {}};
  }
  TemporaryFolder folder;
};

TEST_CASE("files in order become the directory", "[result_folder]") {
  Fixture f;
  auto folder = f.Open();
  REQUIRE(folder->file().empty());
  REQUIRE(folder->Take(Chunk("a", "hello", 0, 3)).ok());
  REQUIRE(folder->file() == "a");
  REQUIRE(folder->offset() == 3);
  REQUIRE(folder->Take(Chunk("a", "hello", 3, 9)).ok());
  REQUIRE(folder->Take(Chunk("sub/b", "", 0, 0)).ok());
  // sha256sum of the lines "<hex>  ./a\n<hex>  ./sub/b\n".
  const std::string digest = DigestOf(DigestOf("hello").substr(7) + "  ./a\n" +
                                      DigestOf("").substr(7) + "  ./sub/b\n");
  REQUIRE_FALSE(*folder->Publish("sha256:other", Never));
  REQUIRE_FALSE(fs::exists(f.folder / "out"));
  REQUIRE(*folder->Publish(digest, Never));
  REQUIRE(f.Read("a") == "hello");
  REQUIRE(f.Read("sub/b").empty());
  REQUIRE_FALSE(fs::exists(folder->staging()));
  REQUIRE(ExitCodeOf(ResultFolder::Open(f.folder / "out", "id").status()) ==
          ExitCode::kOutput);
}

TEST_CASE("a second run goes on where the first one was", "[result_folder]") {
  Fixture f;
  {
    auto folder = f.Open();
    REQUIRE(folder->Take(Chunk("a", "hello", 0, 5)).ok());
    REQUIRE(folder->Take(Chunk("b", "world", 0, 2)).ok());
    REQUIRE(ExitCodeOf(ResultFolder::Open(f.folder / "out", "id").status()) ==
            ExitCode::kOutput);  // one at a time
  }
  auto folder = f.Open();
  REQUIRE(folder->file() == "b");
  REQUIRE(folder->offset() == 2);
  REQUIRE(folder->Take(Chunk("b", "world", 2, 3)).ok());
  const std::string digest = DigestOf(DigestOf("hello").substr(7) + "  ./a\n" +
                                      DigestOf("world").substr(7) + "  ./b\n");
  REQUIRE(*folder->Publish(digest, Never));
  REQUIRE(f.Read("b") == "world");
}

TEST_CASE("damage on the way and on the disk is found", "[result_folder]") {
  Fixture f;
  auto folder = f.Open();
  v1::FileChunk chunk = Chunk("a", "hello", 0, 3);
  chunk.set_crc32c(1);
  REQUIRE(absl::IsUnavailable(folder->Take(chunk)));
  REQUIRE(folder->Take(Chunk("a", "hello", 0, 3)).ok());
  folder = nullptr;
  std::fstream(f.folder / ".out.quantctl-id/files/a",
               std::ios::in | std::ios::out)
      << "j";
  folder = f.Open();
  REQUIRE(folder->offset() == 3);
  REQUIRE(absl::IsUnavailable(folder->Take(Chunk("a", "hello", 3, 2))));
  REQUIRE(folder->file() == "a");
  REQUIRE(folder->offset() == 0);
  REQUIRE(folder->Take(Chunk("a", "hello", 0, 5)).ok());
  REQUIRE(folder->StartOver().ok());
  REQUIRE(folder->file().empty());
  REQUIRE(folder->Take(Chunk("b", "x", 0, 1)).ok());
}

TEST_CASE("a server cannot write elsewhere, or out of order",
          "[result_folder]") {
  Fixture f;
  auto folder = f.Open();
  for (const std::string& path :
       {std::string("../x"), std::string("/x"), std::string("a/../x"),
        std::string("."), std::string("a//b"), std::string(""),
        std::string("a\0b", 3), std::string(5000, 'a')}) {
    INFO(path);
    REQUIRE(ExitCodeOf(folder->Take(Chunk(path, "x", 0, 1))) ==
            ExitCode::kUnexpected);
  }
  REQUIRE(ExitCodeOf(folder->Take(Chunk("a", "hello", 1, 1))) ==
          ExitCode::kUnexpected);
  REQUIRE(folder->StartOver().ok());
  REQUIRE(folder->Take(Chunk("a", "hello", 0, 2)).ok());
  // Another one before this one's end; a gap; the same again.
  for (const v1::FileChunk& chunk :
       {Chunk("b", "x", 0, 1), Chunk("a", "hello", 3, 1),
        Chunk("a", "hello", 0, 2)}) {
    REQUIRE(ExitCodeOf(folder->Take(chunk)) == ExitCode::kUnexpected);
  }
  REQUIRE(folder->Take(Chunk("a", "hello", 2, 3)).ok());
  REQUIRE(folder->Take(Chunk("b", "x", 0, 1)).ok());
  REQUIRE(ExitCodeOf(folder->Take(Chunk("a", "hello", 0, 5))) ==
          ExitCode::kUnexpected);
  REQUIRE_FALSE(fs::exists(f.folder / "x"));
}

}  // namespace
}  // namespace qs::cli
