// The descriptors 0, 1 and 2, which a process may have been started without.
#ifndef QS_SERVICE_BASE_STANDARD_DESCRIPTORS_H_
#define QS_SERVICE_BASE_STANDARD_DESCRIPTORS_H_

namespace qs {

// Those that are closed are opened again: the next file, socket or pipe would
// become one of them, and what is printed would go into it. Using them still
// fails, as it did. Before anything is opened, so not in main but by the
// program's .preinit_array, which runs ahead of what libraries do when they are
// loaded. Makes system calls only.
void OpenStandardDescriptors();

}  // namespace qs

#endif  // QS_SERVICE_BASE_STANDARD_DESCRIPTORS_H_
