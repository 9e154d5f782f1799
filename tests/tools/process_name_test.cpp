#include "tools/kvshim/process_name.h"

#include <gtest/gtest.h>

namespace kvshim::cli {
namespace {

TEST(ProcessName, IsTheScriptOfAnInterpreter) {
  EXPECT_EQ(display_name("python3.11", "python3 /usr/local/bin/vllm serve Qwen/Qwen2.5-0.5B"),
            "vllm");
  EXPECT_EQ(display_name("python3", "python3 -u -m sglang.launch_server --port 1"),
            "sglang.launch_server");
  EXPECT_EQ(display_name("python3", "/opt/venv/bin/python3 server.py"), "server.py");
}

TEST(ProcessName, IsTheTitleThatAProcessGaveItself) {
  EXPECT_EQ(display_name("python3.11", "VLLM::EngineCore"), "VLLM::EngineCore");
}

TEST(ProcessName, IsTheExecutableOtherwise) {
  EXPECT_EQ(display_name("llama-server", "./llama-server -m model.gguf"), "llama-server");
  EXPECT_EQ(display_name("python3", "python3 -c import_torch"), "python3");
  EXPECT_EQ(display_name("python3", "python3"), "python3");
  EXPECT_EQ(display_name("", ""), "?");
}

TEST(ProcessName, CannotSteerATerminal) {
  EXPECT_EQ(display_name("a\033[2Jb c\n", ""), "a?[2Jb_c?");
}

}  // namespace
}  // namespace kvshim::cli
