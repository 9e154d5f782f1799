#include "bench/loaded_symbol.h"

#include <elf.h>
#include <link.h>

#include <cstdint>
#include <cstring>

namespace kvshim::bench {
namespace {

struct Wanted {
  const char* library;
  const char* symbol;
  void* found = nullptr;
};

// The number of symbols is one more than the largest in any hash chain.
std::uint32_t symbol_count(const std::uint32_t* gnu_hash) {
  const std::uint32_t buckets = gnu_hash[0], first = gnu_hash[1], bloom_words = gnu_hash[2];
  const std::uint32_t* const bucket = gnu_hash + 4 + std::size_t{bloom_words} * 2;
  const std::uint32_t* const chain = bucket + buckets;
  std::uint32_t last = 0;
  for (std::uint32_t i = 0; i < buckets; ++i) last = bucket[i] > last ? bucket[i] : last;
  if (last < first) return first;
  while ((chain[last - first] & 1u) == 0) ++last;
  return last + 1;
}

int look(dl_phdr_info* info, std::size_t, void* data) {
  Wanted& wanted = *static_cast<Wanted*>(data);
  const char* slash = std::strrchr(info->dlpi_name, '/');
  const char* name = slash != nullptr ? slash + 1 : info->dlpi_name;
  if (std::strncmp(name, wanted.library, std::strlen(wanted.library)) != 0) return 0;
  const ElfW(Dyn)* dynamic = nullptr;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    if (info->dlpi_phdr[i].p_type == PT_DYNAMIC) {
      dynamic = reinterpret_cast<const ElfW(Dyn)*>(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
    }
  }
  const ElfW(Sym)* symbols = nullptr;
  const char* strings = nullptr;
  const std::uint32_t* hash = nullptr;
  for (; dynamic != nullptr && dynamic->d_tag != DT_NULL; ++dynamic) {
    // glibc has relocated these addresses (except on a few other machines).
    if (dynamic->d_tag == DT_SYMTAB) {
      symbols = reinterpret_cast<const ElfW(Sym)*>(dynamic->d_un.d_ptr);
    } else if (dynamic->d_tag == DT_STRTAB) {
      strings = reinterpret_cast<const char*>(dynamic->d_un.d_ptr);
    } else if (dynamic->d_tag == DT_GNU_HASH) {
      hash = reinterpret_cast<const std::uint32_t*>(dynamic->d_un.d_ptr);
    }
  }
  if (symbols == nullptr || strings == nullptr || hash == nullptr) return 0;
  for (std::uint32_t i = 0, count = symbol_count(hash); i < count; ++i) {
    if (symbols[i].st_shndx != SHN_UNDEF &&
        std::strcmp(strings + symbols[i].st_name, wanted.symbol) == 0) {
      wanted.found = reinterpret_cast<void*>(info->dlpi_addr + symbols[i].st_value);
      return 1;
    }
  }
  return 0;
}

}  // namespace

void* loaded_symbol(const char* library, const char* symbol) {
  Wanted wanted{library, symbol};
  dl_iterate_phdr(look, &wanted);
  return wanted.found;
}

}  // namespace kvshim::bench
