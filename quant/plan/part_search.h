// PartSearch: which of many texts are parts of names, for loaders that skip
// every module whose name contains an entry.
//
// Aho and Corasick, "Efficient string matching" (1975): the texts in a tree, a
// node per beginning, through which each name is led once. Time grows with the
// bytes of the texts and the names, and where a text is found again, with how
// far the names are the same behind it. Memory is 25 bytes per byte of a text
// at most, beginnings that texts share counted once.
#ifndef QS_QUANT_PLAN_PART_SEARCH_H_
#define QS_QUANT_PLAN_PART_SEARCH_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qs {

class PartSearch {
 public:
  // REQUIRES: `texts` are less than 4 GiB in all, and outlive it.
  explicit PartSearch(const std::vector<std::string>& texts);

  // REQUIRES: `name` is less than 4 GiB, and outlives what Finish returns.
  void Read(std::string_view name);

  // For each text, of the ends of names that begin with it the first in order:
  // "a.mixer.b" for "a.mix" and a name "x.a.mixer.b". Empty: the text is part
  // of no name, or empty. To be called once, after the last name.
  std::vector<std::string_view> Finish();

 private:
  // In order of their depth, and below one node of their characters, so that
  // the children of a node are neighbours. 0: the root.
  using Node = uint32_t;

  // In a name, where a text ends.
  struct Place {
    uint32_t name = 0;  // of names_
    uint32_t end = 0;   // 0: there is none
  };

  void Grow();
  void Link();
  Node Child(Node node, unsigned char c) const;  // 0: none
  Node Next(Node node, unsigned char c) const;
  void KeepFirst(const Place& place, Place* first) const;

  const std::vector<std::string>& texts_;
  std::vector<Node> whole_;           // of each text, the node that is all
  std::vector<unsigned char> last_;   // of a node, its last character
  std::vector<Node> first_child_;     // and one more, the number of nodes
  std::vector<Node> shorter_;         // the longest node that it ends with
  std::vector<bool> ends_with_text_;  // that it is, or ends with, a text
  // Of each node, where the rest of a name behind it is the first in order.
  std::vector<Place> places_;
  std::vector<std::string_view> names_;
};

}  // namespace qs

#endif  // QS_QUANT_PLAN_PART_SEARCH_H_
