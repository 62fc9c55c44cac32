// Tested by tests/quant/part_search_test.cc.
#include "quant/plan/part_search.h"

#include <algorithm>
#include <numeric>

namespace qs {
PartSearch::PartSearch(const std::vector<std::string>& texts) : texts_(texts) {
  Grow();
  Link();
}

// Sorted, the texts of a node are neighbours, and the one that is all of it is
// the first of them.
void PartSearch::Grow() {
  std::vector<size_t> sorted(texts_.size());
  std::iota(sorted.begin(), sorted.end(), size_t{0});
  std::sort(sorted.begin(), sorted.end(),
            [&](size_t a, size_t b) { return texts_[a] < texts_[b]; });
  struct Range {
    size_t begin;
    size_t end;
  };
  whole_.resize(texts_.size());
  last_ = {0};
  std::vector<Range> level = {{0, sorted.size()}};
  for (size_t depth = 0; !level.empty(); ++depth) {
    std::vector<Range> next;
    for (auto [i, end] : level) {
      const auto node = static_cast<Node>(first_child_.size());
      first_child_.push_back(static_cast<Node>(last_.size()));
      for (; i < end && texts_[sorted[i]].size() == depth; ++i) {
        whole_[sorted[i]] = node;
      }
      while (i < end) {
        const size_t begin = i;
        const char c = texts_[sorted[i]][depth];
        while (i < end && texts_[sorted[i]][depth] == c) ++i;
        last_.push_back(static_cast<unsigned char>(c));
        next.push_back({begin, i});
      }
    }
    level = std::move(next);
  }
  first_child_.push_back(static_cast<Node>(last_.size()));
}

// A node's shorter one is of less depth, so that it is done before.
void PartSearch::Link() {
  const auto nodes = static_cast<Node>(last_.size());
  shorter_.resize(nodes);
  ends_with_text_.resize(nodes);
  places_.resize(nodes);
  for (const Node node : whole_) ends_with_text_[node] = node != 0;
  for (Node node = 0; node < nodes; ++node) {
    for (Node child = first_child_[node]; child < first_child_[node + 1];
         ++child) {
      shorter_[child] = node == 0 ? 0 : Next(shorter_[node], last_[child]);
      if (ends_with_text_[shorter_[child]]) ends_with_text_[child] = true;
    }
  }
}

PartSearch::Node PartSearch::Child(Node node, unsigned char c) const {
  const auto begin = last_.begin() + first_child_[node];
  const auto end = last_.begin() + first_child_[node + 1];
  const auto found = std::lower_bound(begin, end, c);
  if (found == end || *found != c) return 0;
  return static_cast<Node>(found - last_.begin());
}

// The longest node that `node` and then `c` end with.
PartSearch::Node PartSearch::Next(Node node, unsigned char c) const {
  while (true) {
    const Node child = Child(node, c);
    if (child != 0 || node == 0) return child;
    node = shorter_[node];
  }
}

void PartSearch::KeepFirst(const Place& place, Place* first) const {
  const auto rest = [&](const Place& of) {
    return names_[of.name].substr(of.end);
  };
  if (place.end == 0) return;
  if (first->end == 0 || rest(place) < rest(*first)) *first = place;
}

void PartSearch::Read(std::string_view name) {
  Place place = {static_cast<uint32_t>(names_.size()), 0};
  names_.push_back(name);
  Node node = 0;
  for (const char c : name) {
    ++place.end;
    node = Next(node, static_cast<unsigned char>(c));
    if (ends_with_text_[node]) KeepFirst(place, &places_[node]);
  }
}

// What follows a node follows its shorter ones, too. Only now, once for each
// node and not for each time that one was met.
std::vector<std::string_view> PartSearch::Finish() {
  for (size_t node = places_.size() - 1; node > 0; --node) {
    KeepFirst(places_[node], &places_[shorter_[node]]);
  }
  std::vector<std::string_view> found(texts_.size());
  for (size_t i = 0; i < texts_.size(); ++i) {
    const Place& place = places_[whole_[i]];
    if (texts_[i].empty() || place.end == 0) continue;
    found[i] = names_[place.name].substr(place.end - texts_[i].size());
  }
  return found;
}

}  // namespace qs
