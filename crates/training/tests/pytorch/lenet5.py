"""Makes lenet5.json: one pass through LeNet-5 as Caffe has it (20-50-500-10, no ReLU after the convolutions)."""

from torch import nn
from torch.nn import functional as F

from formula import write
from one_pass import fixture


class LeNet5(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x):
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


ABOUT = "Loss, logits and [sum, sum of absolute values, sum of g_i value(i, 999)] of each gradient; the README gives the formulas."
write("lenet5.json", fixture(ABOUT, LeNet5, (1, 28, 28)))
